"""Objects in a bucket of Google Cloud Storage."""

from __future__ import annotations

import os
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from io import BytesIO
from typing import Any, Protocol, cast

import google_crc32c
import requests
from google.auth.exceptions import DefaultCredentialsError
from google.cloud import storage
from google.oauth2 import service_account

from pgkeep.errors import ConfigurationError, ObjectMissing, StoreAccessDenied, StoreError
from pgkeep.pacing import Pace
from pgkeep.stores.base import Bytes, StoredFile
from pgkeep.stores.facts import StoreFacts
from pgkeep.stores.gcs_errors import (
    NotFound,
    SdkError,
    bucket_missing,
    names_bucket,
    object_missing,
    translated,
)
from pgkeep.stores.gcs_facts import BucketProperties, bucket_facts
from pgkeep.stores.remote import (
    CONNECT_SECONDS,
    PacedBody,
    PerProcess,
    Place,
    RemoteStore,
    StoreSettings,
    check_endpoint,
)

_CONTENT_TYPE = "application/octet-stream"


class _Blob(Protocol):
    """What is used of the SDK's type for an object. Timeouts are (connect, silence) in seconds."""

    name: str
    size: int
    crc32c: str
    time_created: datetime | None
    retention_expiration_time: datetime | None

    def upload_from_file(self, file: BytesIO, **options: object) -> None: ...
    def download_as_bytes(self, **options: object) -> bytes: ...
    def delete(self, **options: object) -> None: ...


class _Bucket(Protocol):
    def blob(self, name: str) -> _Blob: ...
    def get_blob(self, name: str, **options: object) -> _Blob | None: ...


class _Listing(Protocol):
    prefixes: set[str]

    def __iter__(self) -> Iterator[_Blob]: ...


class _Client(Protocol):
    _http: requests.Session

    def bucket(self, name: str) -> _Bucket: ...
    def get_bucket(self, name: str, **options: object) -> BucketProperties: ...
    def list_blobs(self, bucket: str, **options: object) -> _Listing: ...


class GcsStore(RemoteStore):
    """See `pgkeep.stores.base.Store` for the contract.

    The CRC32C goes along with each upload, so Google refuses bytes that changed on the way; what
    comes back is checked against it by the SDK.
    """

    def __init__(self, place: Place, settings: StoreSettings) -> None:
        _check(settings)
        super().__init__(place, settings)
        self._client = PerProcess(self._connect)
        check_endpoint(settings.endpoint)
        connect = min(CONNECT_SECONDS, settings.timeout_seconds)
        # The SDK's own retries are off: a wrapper retries.
        self._options = {"timeout": (connect, settings.timeout_seconds), "retry": None}

    def put(self, name: str, data: Bytes) -> None:
        key = self._place.key(name)
        whole = bytes(data)
        with self._translating(f"cannot write {name!r} to {self.url}"):
            blob = self._bucket().blob(key)
            blob.crc32c = b64encode(google_crc32c.value(whole).to_bytes(4)).decode()
            blob.upload_from_file(
                BytesIO(whole),
                size=len(whole),
                content_type=_CONTENT_TYPE,
                checksum="crc32c",
                **self._options,
            )

    def get(self, name: str) -> bytes:
        key = self._place.key(name)
        with self._translating(f"cannot read {name!r} from {self.url}"):
            blob = self._bucket().blob(key)
            return blob.download_as_bytes(
                raw_download=True, checksum="crc32c", single_shot_download=True, **self._options
            )

    def size(self, name: str) -> int:
        key = self._place.key(name)
        return self._look_at(key, f"cannot look at {name!r} in {self.url}").size

    def locked_until(self, name: str) -> datetime | None:
        key = self._place.key(name)
        what = f"cannot look at the lock of {name!r} in {self.url}"
        return self._look_at(key, what).retention_expiration_time

    def _look_at(self, key: str, what: str) -> _Blob:
        with self._translating(what):
            blob = self._bucket().get_blob(key, **self._options)
            if blob is None:
                raise self._missing(what)
            return blob

    def list(self, prefix: str) -> Iterator[StoredFile]:
        begin = self._place.keys(prefix)
        with self._translating(f"cannot list {prefix!r} in {self.url}"):
            listing = self._list(prefix=begin, fields="items(name,size,timeCreated),nextPageToken")
            files = self._place.files((blob.name, blob.size, blob.time_created) for blob in listing)
        yield from files

    def folders(self, prefix: str) -> Iterator[str]:
        begin = self._place.keys(prefix)
        with self._translating(f"cannot list {prefix!r} in {self.url}"):
            listing = self._list(prefix=begin, delimiter="/", fields="prefixes,nextPageToken")
            for _ in listing:  # the folders are known when the last page was read
                pass
            found = listing.prefixes
        yield from sorted(key.removeprefix(begin).rstrip("/") for key in found)

    def delete(self, name: str) -> None:
        key = self._place.key(name)
        try:
            with self._translating(f"cannot delete {name!r} in {self.url}"):
                self._bucket().blob(key).delete(**self._options)
        except ObjectMissing:
            return

    def facts(self) -> StoreFacts:
        with self._translating(f"cannot look at {self.url}"):
            client = self._client()
            self._probe()
        return bucket_facts(
            lambda: client.get_bucket(self._place.bucket, **self._options), self._place.prefix
        )

    # --- the client -------------------------------------------------------------------------

    def _bucket(self) -> _Bucket:
        return self._client().bucket(self._place.bucket)

    def _list(self, **options: object) -> _Listing:
        return self._client().list_blobs(self._place.bucket, **options, **self._options)

    def _probe(self) -> None:
        for _ in self._list(max_results=1, fields="items(name)"):
            pass

    def _connect(self) -> _Client:
        settings = self._settings
        # Without this the SDK asks for the bucket's properties in a thread of its own, for traces
        # that are off, with a right that a writer need not have.
        os.environ.setdefault("DISABLE_GCS_PYTHON_CLIENT_OTEL_BUCKET_METADATA", "true")
        options = {"api_endpoint": settings.endpoint} if settings.endpoint else None
        try:
            client = cast(
                _Client,
                storage.Client(
                    project=None, credentials=self._credentials(), client_options=options
                ),
            )
        except DefaultCredentialsError as exc:
            raise StoreAccessDenied(
                f"no credentials for {self.url} were found",
                hint="Set credentials_file, or GOOGLE_APPLICATION_CREDENTIALS.",
            ) from exc
        for scheme in ("https://", "http://"):
            client._http.mount(scheme, _BlockwiseAdapter(self._upload, settings.connections))
        return client

    def _credentials(self) -> object | None:
        """Those of the configured file; `None` leaves the search to the SDK."""
        path = self._settings.credentials_file
        if path is None:
            return None
        try:
            found: object = service_account.Credentials.from_service_account_file(
                str(path), scopes=storage.Client.SCOPE
            )
        except (OSError, ValueError) as exc:
            raise ConfigurationError(
                f"{str(path)!r} cannot be read as the key of a service account",
                hint="Its own text is not shown here. Make a new key, or correct the path.",
            ) from exc
        return found

    # --- errors -----------------------------------------------------------------------------

    @contextmanager
    def _translating(self, what: str) -> Iterator[None]:
        try:
            yield
        except NotFound as exc:
            if names_bucket(exc):
                raise bucket_missing(self._place.bucket, what) from exc
            raise self._missing(what) from exc
        except SdkError as exc:
            raise translated(exc, what) from exc
        else:
            self._bucket_seen.set()

    def _missing(self, what: str) -> StoreError:
        """Whether the object is missing or the whole bucket, which one answer often leaves open."""
        if not self._bucket_seen.is_set():
            try:
                self._probe()
            except NotFound:
                return bucket_missing(self._place.bucket, what)
            except SdkError:  # who may not list may still read
                return object_missing(what)
            self._bucket_seen.set()
        return object_missing(what)


class _BlockwiseAdapter(requests.adapters.HTTPAdapter):
    """Sends an upload in blocks.

    Bytes given as a whole are sent in one call, all of which then has to end within the time that
    is meant for connecting: a slow line would never get an object through.
    """

    def __init__(self, pace: Pace, connections: int) -> None:
        self._pace = pace
        super().__init__(pool_maxsize=connections)

    def send(self, request: requests.PreparedRequest, *args: Any, **options: Any) -> Any:
        if isinstance(request.body, bytes):
            body = PacedBody(request.body, self._pace)
            body.begin_sending()
            request.body = body  # type: ignore[assignment]
        return super().send(request, *args, **options)


def _check(settings: StoreSettings) -> None:
    given = {
        "access_key_id": settings.access_key_id,
        "secret_access_key": settings.secret_access_key,
        "session_token": settings.session_token,
        "profile": settings.profile,
        "region": settings.region,
        "addressing": settings.addressing,
    }
    for name, value in given.items():
        if value is not None:
            raise ConfigurationError(f"{name} is for s3:// repositories")
