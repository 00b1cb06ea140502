"""Objects in a bucket of S3, or of a server that speaks its protocol."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from hashlib import md5
from typing import IO, TYPE_CHECKING, TypedDict, cast

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError, ProfileNotFound

from pgkeep.errors import (
    ConfigurationError,
    ObjectMissing,
    StoreAccessDenied,
    StoreError,
    StoreUnavailable,
)
from pgkeep.stores.base import Bytes, StoredFile
from pgkeep.stores.facts import StoreFacts
from pgkeep.stores.remote import (
    BLOCK_BYTES,
    CONNECT_SECONDS,
    PacedBody,
    PerProcess,
    Place,
    RemoteStore,
    StoreSettings,
    check_endpoint,
)
from pgkeep.stores.s3_errors import SdkError, bucket_missing, code_of, status_of, translated
from pgkeep.stores.s3_facts import bucket_facts
from pgkeep.stores.s3_signing import sha256_in, sign_by_name

if TYPE_CHECKING:
    from botocore.response import StreamingBody
    from mypy_boto3_s3 import S3Client

_NOT_LOCKED = {
    "500",  # what the SDK makes of a server that does not know the question and gives the object
    "InvalidRequest",  # in a bucket without locks
    "MethodNotAllowed",
    "NoSuchObjectLockConfiguration",
    "NotImplemented",
    "ObjectLockConfigurationNotFoundError",
}

_DEFAULT_REGION = "us-east-1"


class _Digest(TypedDict, total=False):
    ContentMD5: str


class S3Store(RemoteStore):
    """See `pgkeep.stores.base.Store` for the contract.

    A file is one PUT, never a multipart upload: whole or not at all, on every server. Its SHA-256
    is part of the signature, so a server that checks it refuses bytes that changed on the way. Not
    every server does: without TLS, which guards the way itself, an MD5 goes along too, and so it
    does to a server that asks for one (Object Lock). Nothing depends on conditional requests,
    which many servers ignore.
    """

    def __init__(self, place: Place, settings: StoreSettings) -> None:
        _check(settings)
        super().__init__(place, settings)
        self._client = PerProcess(self._connect)
        self._wants_md5 = (settings.endpoint or "").startswith("http:")

    def put(self, name: str, data: Bytes) -> None:
        key = self._place.key(name)
        with self._translating(f"cannot write {name!r} to {self.url}"):
            try:
                self._put(key, data, sha256_in(name))
            except ClientError as exc:
                if self._wants_md5 or not _asks_for_md5(exc):
                    raise
                self._wants_md5 = True
                self._put(key, data, sha256_in(name))

    def _put(self, key: str, data: Bytes, sha256: str | None) -> None:
        extra: _Digest = {}
        if self._wants_md5:
            digest = md5(data, usedforsecurity=False).digest()
            extra["ContentMD5"] = b64encode(digest).decode()
        body = cast(IO[bytes], PacedBody(data, self._upload, sha256))
        self._client().put_object(Bucket=self._place.bucket, Key=key, Body=body, **extra)

    def get(self, name: str) -> bytes:
        key = self._place.key(name)
        what = f"cannot read {name!r} from {self.url}"
        with self._missing_though_denied(key), self._translating(what):
            answer = self._client().get_object(Bucket=self._place.bucket, Key=key)
            data = self._received(answer["Body"])
        expected = answer.get("ContentLength", len(data))
        if len(data) != expected:
            raise StoreUnavailable(f"{what}: {len(data)} bytes came instead of {expected}")
        return data

    def _received(self, body: StreamingBody) -> bytes:
        if not self._download.is_limited:
            return body.read()
        blocks = []
        while block := body.read(self._download.block_bytes(BLOCK_BYTES)):
            self._download.wait_after(len(block))
            blocks.append(block)
        return b"".join(blocks)

    def size(self, name: str) -> int:
        key = self._place.key(name)
        what = f"cannot look at {name!r} in {self.url}"
        with self._missing_though_denied(key), self._translating(what):
            return self._client().head_object(Bucket=self._place.bucket, Key=key)["ContentLength"]

    @contextmanager
    def _missing_though_denied(self, key: str) -> Iterator[None]:
        """A 403 for what a listing does not show means that it is missing.

        S3 answers so where a key may not list the whole bucket; ours may only list the folder.
        """
        try:
            yield
        except StoreAccessDenied as exc:
            if self._is_listed_or_unknown(key):
                raise
            raise ObjectMissing(f"{key!r} is not in {self.url}") from exc

    def _is_listed_or_unknown(self, key: str) -> bool:
        try:
            answer = self._client().list_objects_v2(
                Bucket=self._place.bucket, Prefix=key, MaxKeys=1
            )
        except SdkError:
            return True
        return any(item["Key"] == key for item in answer.get("Contents", ()))

    def list(self, prefix: str) -> Iterator[StoredFile]:
        begin = self._place.keys(prefix)
        with self._translating(f"cannot list {prefix!r} in {self.url}"):
            pages = self._client().get_paginator("list_objects_v2")
            answers = pages.paginate(Bucket=self._place.bucket, Prefix=begin)
            items = (item for page in answers for item in page.get("Contents", ()))
            files = self._place.files(
                (item["Key"], item["Size"], item.get("LastModified")) for item in items
            )
        yield from files

    def folders(self, prefix: str) -> Iterator[str]:
        begin = self._place.keys(prefix)
        found: set[str] = set()
        with self._translating(f"cannot list {prefix!r} in {self.url}"):
            pages = self._client().get_paginator("list_objects_v2")
            for page in pages.paginate(Bucket=self._place.bucket, Prefix=begin, Delimiter="/"):
                found.update(item["Prefix"] for item in page.get("CommonPrefixes", ()))
        yield from sorted(key.removeprefix(begin).rstrip("/") for key in found)

    def delete(self, name: str) -> None:
        key = self._place.key(name)
        try:
            with self._translating(f"cannot delete {name!r} in {self.url}"):
                self._client().delete_object(Bucket=self._place.bucket, Key=key)
        except ObjectMissing:
            return
        except StoreUnavailable as exc:
            # A server whose objects are files may fail where a folder has the name.
            cause = exc.__cause__
            own = isinstance(cause, ClientError) and code_of(cause) == "InternalError"
            if not own or self._exists(name):
                raise

    def locked_until(self, name: str) -> datetime | None:
        key = self._place.key(name)
        with self._translating(f"cannot look at the lock of {name!r} in {self.url}"):
            head = self._client().head_object(Bucket=self._place.bucket, Key=key)
            return head.get("ObjectLockRetainUntilDate") or self._retention(key)

    def _retention(self, key: str) -> datetime | None:
        """A HEAD says nothing where there is no lock, and where its reader may not know of one."""
        try:
            answer = self._client().get_object_retention(Bucket=self._place.bucket, Key=key)
        except ClientError as exc:
            if code_of(exc) in _NOT_LOCKED or status_of(exc) == 501:
                return None
            raise
        return answer.get("Retention", {}).get("RetainUntilDate")

    def facts(self) -> StoreFacts:
        with self._translating(f"cannot look at {self.url}"):
            client = self._client()
            self._probe()
        return bucket_facts(client, self._place.bucket, self._place.prefix)

    def _probe(self) -> None:
        """Ask for a listing: within the folder, as a key may have no right to more."""
        self._client().list_objects_v2(
            Bucket=self._place.bucket, Prefix=self._place.prefix, MaxKeys=1
        )

    def _exists(self, name: str) -> bool:
        try:
            self.size(name)
        except ObjectMissing:
            return False
        return True

    # --- the client -------------------------------------------------------------------------

    def _connect(self) -> S3Client:
        settings = self._settings
        try:
            session = boto3.session.Session(
                aws_access_key_id=settings.access_key_id,
                aws_secret_access_key=settings.secret_access_key,
                aws_session_token=settings.session_token,
                profile_name=settings.profile,
            )
            client = session.client(
                "s3",
                endpoint_url=settings.endpoint,
                region_name=settings.region or session.region_name or _DEFAULT_REGION,
                config=_config(settings),
            )
        except ProfileNotFound as exc:
            raise ConfigurationError(f"there is no AWS profile {settings.profile!r}") from exc
        sign_by_name(client)
        return client

    # --- errors -----------------------------------------------------------------------------

    @contextmanager
    def _translating(self, what: str) -> Iterator[None]:
        try:
            yield
        except ClientError as exc:
            raise self._cause(exc, what) from exc
        except SdkError as exc:
            raise translated(exc, what) from exc
        else:
            self._bucket_seen.set()

    def _cause(self, error: ClientError, what: str) -> StoreError:
        """What was wrong. A HEAD is answered without a reason: then a listing is asked for it."""
        found = translated(error, what)
        if code_of(error) == "NoSuchBucket":
            return bucket_missing(self._place.bucket, what)
        if not code_of(error).isdigit() or isinstance(found, StoreUnavailable):
            return found
        if isinstance(found, ObjectMissing) and self._bucket_seen.is_set():
            return found
        try:
            self._probe()
        except ClientError as exc:
            if code_of(exc) == "NoSuchBucket":
                return bucket_missing(self._place.bucket, what)
            # Who may not list may still read: then the first answer counts.
            return found if isinstance(found, ObjectMissing) else translated(exc, what)
        except SdkError as exc:
            return translated(exc, what)
        self._bucket_seen.set()
        return found


def _asks_for_md5(error: ClientError) -> bool:
    """Whether a server may have refused a PUT since no MD5 came with it.

    Amazon does for Object Lock ("InvalidRequest: Content-MD5 OR x-amz-checksum- HTTP header is
    required"), others with codes of their own.
    """
    message = error.response.get("Error", {}).get("Message", "")
    return code_of(error) == "InvalidRequest" or "md5" in f"{code_of(error)} {message}".lower()


def _check(settings: StoreSettings) -> None:
    if (settings.access_key_id is None) != (settings.secret_access_key is None):
        raise ConfigurationError("access_key_id and secret_access_key belong together")
    if settings.session_token is not None and settings.access_key_id is None:
        raise ConfigurationError("session_token goes with access_key_id and secret_access_key")
    if settings.credentials_file is not None:
        raise ConfigurationError("credentials_file is for gs:// repositories")
    check_endpoint(settings.endpoint)


def _config(settings: StoreSettings) -> Config:
    return Config(
        connect_timeout=min(CONNECT_SECONDS, settings.timeout_seconds),
        read_timeout=settings.timeout_seconds,
        max_pool_connections=settings.connections,
        tcp_keepalive=True,
        retries={"total_max_attempts": 1, "mode": "standard"},
        # The signature's SHA-256 does what these would, and other servers have refused the SDK's
        # checksums, or stored them as part of the object.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        s3={
            "addressing_style": settings.addressing or ("path" if settings.endpoint else "auto"),
            "payload_signing_enabled": True,
        },
    )
