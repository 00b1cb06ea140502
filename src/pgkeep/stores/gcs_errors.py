"""What an error of Google Cloud Storage or of its SDK means for a store."""

from __future__ import annotations

import requests
from google.api_core.exceptions import (
    Forbidden,
    GoogleAPICallError,
    NotFound,
    ServerError,
    TooManyRequests,
    Unauthorized,
)
from google.auth.exceptions import GoogleAuthError, RefreshError, TransportError
from google.cloud.storage.exceptions import DataCorruption, InvalidResponse
from urllib3.exceptions import HTTPError
from urllib3.exceptions import TimeoutError as SilenceError

from pgkeep.errors import (
    ObjectMissing,
    StoreAccessDenied,
    StoreError,
    StoreFull,
    StoreUnavailable,
)

__all__ = ["NotFound", "SdkError", "bucket_missing", "names_bucket", "object_missing", "translated"]

SdkError = (
    GoogleAPICallError,
    GoogleAuthError,
    DataCorruption,
    InvalidResponse,
    requests.RequestException,
    HTTPError,
    OSError,
)
"""All that the SDK lets out."""

RIGHTS_HINT = (
    "The account needs storage.objects.list, get and create on the bucket, and delete to write an"
    " object again. A retention policy or a hold may also forbid it. All rights that are needed:"
    " pgkeep policy."
)


def translated(error: Exception, what: str) -> StoreError:
    """The error of ours for one of `SdkError`; `what` begins its message. Holds no URL."""
    match error:
        case GoogleAPICallError():
            return _of_the_server(error, what)
        case RefreshError() if not error.retryable:
            return StoreAccessDenied(
                f"{what}: Google refused the credentials",
                hint="Check the service account and its key, or log in again.",
            )
        case TransportError() | RefreshError():
            return StoreUnavailable(f"{what}: Google's login service could not be reached")
        case GoogleAuthError():
            return StoreAccessDenied(f"{what}: {_words(error)}")
        case DataCorruption():
            return StoreUnavailable(f"{what}: the bytes do not match their checksum")
        case requests.Timeout() | SilenceError():
            return StoreUnavailable(f"{what}: the server did not answer in time")
        case requests.exceptions.SSLError():
            return StoreError(
                f"{what}: the server's certificate was refused, or it does not speak TLS",
                hint="Check the endpoint; REQUESTS_CA_BUNDLE names a certificate of your own.",
            )
        case requests.exceptions.ChunkedEncodingError() | HTTPError():
            return StoreUnavailable(f"{what}: the answer was cut off")
        case requests.ConnectionError() | ConnectionError():
            return StoreUnavailable(f"{what}: the connection failed or was cut")
        case requests.RequestException() if isinstance(error, ValueError):
            return StoreError(f"{what}: {_words(error)}", hint="Check the endpoint.")
        case _:
            return StoreUnavailable(f"{what}: {_words(error)}")


def object_missing(what: str) -> ObjectMissing:
    """There is no such object."""
    return ObjectMissing(f"{what}: no such object")


def names_bucket(error: Exception) -> bool:
    """Whether a 404 says itself that it is the bucket that is missing."""
    return "bucket does not exist" in str(error)


def bucket_missing(bucket: str, what: str) -> StoreError:
    """There is no such bucket, so nothing can be said of any object."""
    return StoreError(
        f"{what}: there is no bucket {bucket!r}",
        hint="Check the name and the endpoint, or make the bucket; pgkeep makes none.",
    )


def _of_the_server(error: GoogleAPICallError, what: str) -> StoreError:
    told = f"{what}: the server answered {_status(error)}{_reason(error)}"
    match error:
        case NotFound():
            return object_missing(what)
        case Forbidden() | Unauthorized():
            return StoreAccessDenied(told, hint=RIGHTS_HINT)
        case TooManyRequests():
            return StoreUnavailable(told)
        case ServerError():
            return StoreUnavailable(told)
    if _status(error) == 408 or "match calculated" in str(error):  # the bytes changed on the way
        return StoreUnavailable(told)
    if _status(error) == 413:
        return StoreFull(told)
    return StoreError(told)


def _status(error: GoogleAPICallError) -> int:
    return int(error.code or 0)


def _reason(error: GoogleAPICallError) -> str:
    """The reason's fixed word: the texts of the SDK hold whole URLs."""
    for item in error.errors:
        if isinstance(item, dict) and item.get("reason"):
            return f" ({item['reason']})"
    return ""


def _words(error: Exception) -> str:
    return f"{type(error).__name__} in the Google SDK"
