"""What an error of S3, of a server that speaks like it, or of the SDK means for a store."""

from __future__ import annotations

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionClosedError,
    ConnectTimeoutError,
    CredentialRetrievalError,
    EndpointConnectionError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    ReadTimeoutError,
    ResponseStreamingError,
    SSLError,
    TokenRetrievalError,
    UnauthorizedSSOTokenError,
)
from botocore.parsers import ResponseParserError
from urllib3.exceptions import HTTPError

from pgkeep.errors import (
    ObjectMissing,
    StoreAccessDenied,
    StoreError,
    StoreFull,
    StoreUnavailable,
)

RIGHTS_HINT = (
    "The key needs s3:ListBucket on the bucket and s3:GetObject and s3:PutObject on what is in it."
    " Without s3:ListBucket, what is missing looks like this too. A lock may also forbid it. All"
    " rights that are needed: pgkeep policy."
)
_RENEW_HINT = "Log in again, or renew the session token, and run the same command again."
_KEYS_HINT = "Check access_key_id and secret_access_key, and that they belong to this endpoint."

_ELSEWHERE_HINT = "Set the endpoint's right URL (https?) and the region that the bucket is in."

_DENIED = {
    "AccessDenied": RIGHTS_HINT,
    "AccountProblem": "Ask the provider about the account.",
    "AllAccessDisabled": "Ask the provider about the account.",
    "ExpiredToken": _RENEW_HINT,
    "ExpiredTokenException": _RENEW_HINT,
    "Forbidden": RIGHTS_HINT,
    "InvalidAccessKeyId": _KEYS_HINT,
    "InvalidToken": _RENEW_HINT,
    "SignatureDoesNotMatch": _KEYS_HINT,
    "TokenRefreshRequired": _RENEW_HINT,
    "UnauthorizedAccess": RIGHTS_HINT,
}
_MISSING = {"NoSuchKey", "NoSuchVersion", "NotFound"}
_OTHER_REGION = {
    "AuthorizationHeaderMalformed",
    "IllegalLocationConstraintException",
    "PermanentRedirect",
    "TemporaryRedirect",
}
_FULL = {
    "InsufficientStorage",
    "QuotaExceeded",
    "XMinioStorageFull",
    "XMinioAdminBucketQuotaExceeded",
}
_TOO_LARGE = {"EntityTooLarge", "MaxMessageLengthExceeded"}
# With a status below 500 although the next try may do: lost bytes, a busy or slow server.
_TRANSIENT = {
    "BadDigest",
    "IncompleteBody",
    "OperationAborted",
    "RequestLimitExceeded",
    "RequestTimeout",
    "RequestTimeoutException",
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "TooManyRequests",
    "XAmzContentSHA256Mismatch",
}


SdkError = (BotoCoreError, ClientError, ResponseParserError, HTTPError, OSError, RecursionError)
"""All that the SDK lets out."""


def translated(error: Exception, what: str) -> StoreError:
    """The error of ours for one of `SdkError`; `what` begins its message.

    Its text holds no secret, no signature and no URL.
    """
    if isinstance(error, ClientError):
        return _of_the_server(error, what)
    return _of_the_sdk(error, what)


def status_of(error: ClientError) -> int:
    """The HTTP status of an answer, 0 if it had none."""
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def code_of(error: ClientError) -> str:
    """The server's own word for the error; the status where there was no body to hold one."""
    return str(error.response.get("Error", {}).get("Code", ""))


def bucket_missing(bucket: str, what: str) -> StoreError:
    """There is no such bucket, so nothing can be said of any object."""
    return StoreError(
        f"{what}: there is no bucket {bucket!r}",
        hint="Check the name, the endpoint and the region, or make the bucket; pgkeep makes none.",
    )


def _of_the_server(error: ClientError, what: str) -> StoreError:
    code, status = code_of(error), status_of(error)
    told = f"{what}: {_told(error)}"
    if code == "NoSuchBucket":
        return bucket_missing(str(error.response["Error"].get("BucketName", "")), what)
    if code in _MISSING or (status == 404 and code.isdigit()):
        return ObjectMissing(f"{what}: no such object")
    if code == "RequestTimeTooSkewed":
        return StoreError(
            f"{what}: this host's clock and the server's differ too much",
            hint="Set the clock, for example with NTP.",
        )
    if code in _FULL or status == 507:
        return StoreFull(told, hint="Free some space or raise the quota, then run it again.")
    if code in _DENIED or status in (401, 403):
        return StoreAccessDenied(told, hint=_DENIED.get(code, RIGHTS_HINT))
    if code in _OTHER_REGION or status in (301, 307):
        return StoreError(told, hint=_ELSEWHERE_HINT)
    if code in _TOO_LARGE or status == 413:
        return StoreError(told, hint="Objects have up to 40 MiB: raise the server's limit.")
    if code in _TRANSIENT or status == 429 or (status >= 500 and status != 501):
        return StoreUnavailable(told)
    return StoreError(told)


def _told(error: ClientError) -> str:
    code, status = code_of(error), status_of(error)
    message = " ".join(str(error.response.get("Error", {}).get("Message", "")).split())[:200]
    said = "" if code.isdigit() or not message else f": {message.rstrip('.')}"
    return f"the server answered {status}{'' if code.isdigit() else f' {code}'}{said}"


def _of_the_sdk(error: Exception, what: str) -> StoreError:
    match error:
        case NoCredentialsError() | CredentialRetrievalError():
            return StoreAccessDenied(
                f"{what}: no usable credentials were found",
                hint="Set access_key_id and secret_access_key, or profile, or what the AWS SDK"
                " looks for.",
            )
        case TokenRetrievalError() | UnauthorizedSSOTokenError():
            return StoreAccessDenied(f"{what}: the login has expired", hint=_RENEW_HINT)
        case ConnectTimeoutError() | ReadTimeoutError():
            return StoreUnavailable(f"{what}: the server did not answer in time")
        case EndpointConnectionError():
            return StoreUnavailable(
                f"{what}: no connection to the server",
                hint="Check the endpoint, the network, and the name service.",
            )
        case SSLError():
            return StoreError(
                f"{what}: the server's certificate was refused, or it does not speak TLS",
                hint="Check the endpoint; AWS_CA_BUNDLE names a certificate of your own.",
            )
        # The SDK follows a redirect that leads to itself until Python's stack ends, wherever.
        case _ if any(isinstance(one, RecursionError) for one in (error, error.__context__)):
            return StoreError(f"{what}: the server answers with a redirect", hint=_ELSEWHERE_HINT)
        case IncompleteReadError() | ResponseStreamingError():
            return StoreUnavailable(f"{what}: the answer was cut off")
        case ConnectionClosedError():
            return StoreUnavailable(f"{what}: the connection was cut")
        case HTTPClientError() | ResponseParserError() | HTTPError() | OSError():
            return StoreUnavailable(f"{what}: {_words(error)}")
        case _:
            return StoreError(f"{what}: {_words(error)}")


def _words(error: Exception) -> str:
    """The kind of an error only: the texts of the SDK hold whole URLs."""
    return f"{type(error).__name__} in the AWS SDK"
