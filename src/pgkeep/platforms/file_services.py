"""Reading and writing files of Supabase Storage: by its REST interface, or by its S3 endpoint.

Both answer listings from rows of the database, so nothing is listed here: the rows themselves say
what there is. A read goes on where it was cut off, as long as it is the same file.
"""

from __future__ import annotations

import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol
from urllib.parse import quote, urlsplit

from pgkeep.errors import ConfigurationError, FileGone, FilesUnavailable
from pgkeep.networks import is_this_machine
from pgkeep.pacing import Pace

_BLOCK_BYTES = 1 << 20
_ATTEMPTS = 5
_SECONDS = 60


@dataclass(frozen=True, slots=True)
class Opened:
    """A file under way."""

    etag: str
    size_bytes: int
    blocks: Iterator[bytes] = field(repr=False)


@dataclass(frozen=True, slots=True)
class NewFile:
    """What a file is to be called and how it is to be served."""

    bucket: str
    name: str
    mime_type: str
    cache_control: str
    size_bytes: int


class FileService(Protocol):
    """Where files are. `FileGone` if one is not there, `FilesUnavailable` if nothing works."""

    def read(self, bucket: str, name: str) -> Opened:
        """The bytes of a file; one that changes on the way is `FileGone`."""

    def write(self, file: NewFile, read: Callable[[], Iterator[bytes]]) -> None:
        """Put a file, over one that is there; `read` gives its bytes, from the start each time."""


@dataclass(frozen=True, slots=True)
class _Answer:
    """One answer of a server: the rest of a file from some byte on."""

    etag: str
    length: int
    blocks: Iterator[bytes]


class _Resuming:
    """What both services share: tries again, goes on, and keeps to a speed."""

    def __init__(self, pace: Pace | None, sleep: Callable[[float], object]) -> None:
        self._pace = pace or Pace(None)
        self._sleep = sleep

    def _ask(self, bucket: str, name: str, start: int, etag: str) -> _Answer:
        raise NotImplementedError

    def read(self, bucket: str, name: str) -> Opened:
        """See `FileService`."""
        first = self._patiently(lambda: self._ask(bucket, name, 0, ""))
        return Opened(first.etag, first.length, self._blocks(bucket, name, first))

    def _blocks(self, bucket: str, name: str, first: _Answer) -> Iterator[bytes]:
        done, answer, failures = 0, first, 0
        while True:
            try:
                for block in answer.blocks:
                    done, failures = done + len(block), 0
                    self._pace.wait_after(len(block))
                    yield block
                if done >= first.length:
                    return
                raise FilesUnavailable(f"{bucket}/{name} ended after {done} bytes")
            except (OSError, FilesUnavailable) as exc:
                failures += 1
                if failures >= _ATTEMPTS:
                    raise FilesUnavailable(f"{bucket}/{name} was cut off again and again") from exc
                self._sleep(2.0 ** (failures - 1))
                answer = self._patiently(partial(self._ask, bucket, name, done, first.etag))
                if answer.etag != first.etag:
                    raise FileGone(f"{bucket}/{name} was replaced while it was read") from None

    def _patiently(self, ask: Callable[[], Any]) -> Any:
        for attempt in range(_ATTEMPTS):
            try:
                return ask()
            except FilesUnavailable as exc:
                if exc.is_final or attempt + 1 == _ATTEMPTS:
                    raise
                self._sleep(2.0**attempt)
        raise AssertionError


class RestService(_Resuming):
    """By REST, with a secret key."""

    def __init__(
        self,
        url: str,
        key: str,
        *,
        pace: Pace | None = None,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        super().__init__(pace, sleep)
        check_url(url)
        self._base = f"{url.rstrip('/')}/storage/v1/object"
        self._headers = {"Authorization": f"Bearer {key}", "apikey": key, "User-Agent": "pgkeep"}

    def _ask(self, bucket: str, name: str, start: int, etag: str) -> _Answer:
        more = {"Range": f"bytes={start}-", "If-Match": etag} if start else {}
        url = f"{self._base}/authenticated/{quote(bucket)}/{quote(name)}"
        answer = self._open("GET", url, None, more)
        length = int(answer.headers.get("Content-Length") or 0)
        return _Answer(answer.headers.get("ETag") or "", start + length, _in_blocks(answer))

    def write(self, file: NewFile, read: Callable[[], Iterator[bytes]]) -> None:
        """See `FileService`."""
        headers = {
            "x-upsert": "true",
            "Content-Type": file.mime_type or "application/octet-stream",
            "Cache-Control": file.cache_control or "max-age=3600",
            "Content-Length": str(file.size_bytes),
        }
        url = f"{self._base}/{quote(file.bucket)}/{quote(file.name)}"

        def put() -> None:
            self._open("POST", url, read(), headers).close()

        self._patiently(put)

    def _open(
        self, method: str, url: str, data: Iterator[bytes] | None, headers: Mapping[str, str]
    ) -> Any:
        request = urllib.request.Request(  # noqa: S310  (checked in __init__)
            url, data=data, method=method, headers={**self._headers, **headers}
        )
        where = urlsplit(url).path.rpartition("/object/")[2]
        try:
            return urllib.request.urlopen(request, timeout=_SECONDS)  # noqa: S310
        except urllib.error.HTTPError as exc:
            said = exc.read(500).decode("utf-8", "replace")
            raise _refusal(exc.code, said, where, method) from None
        except OSError as exc:
            raise FilesUnavailable(f"the storage does not answer: {exc}") from None


def _refusal(code: int, said: str, where: str, method: str) -> FileGone | FilesUnavailable:
    missing = code == 404 or (code == 400 and "not_found" in said.lower().replace(" ", "_"))
    if method == "GET" and (missing or code == 412):
        return FileGone(f"{where} is not there" if missing else f"{where} was replaced")
    hints = {
        401: "The key is not valid.",
        403: "The key may not do this: take a secret (service_role) key.",
        402: "The project is over its quota, or paused.",
        413: "The file is larger than the project, or its bucket, allows: raise the limit first.",
    }
    return FilesUnavailable(
        f"the storage answers {code} for {where}: {said[:200]}",
        hint=hints.get(code, ""),
        is_final=code in hints,
    )


def _in_blocks(answer: Any) -> Iterator[bytes]:
    with answer:
        while block := answer.read(_BLOCK_BYTES):
            yield block


def check_url(url: str) -> None:
    """Keys are sent encrypted, or to this machine."""
    parts = urlsplit(url)
    if parts.scheme != "https" and not is_this_machine(parts.hostname or ""):
        raise ConfigurationError(
            f"{url!r} is not https://, and the key would go there readable",
            hint="Write https://REF.supabase.co.",
        )


class S3Service(_Resuming):
    """By the S3 endpoint, with its keys."""

    def __init__(
        self,
        url: str,
        keys: tuple[str, str],
        region: str,
        *,
        pace: Pace | None = None,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        super().__init__(pace, sleep)
        check_url(url)
        try:
            import boto3
            from botocore.config import Config
            from botocore.exceptions import BotoCoreError, ClientError
        except ModuleNotFoundError as exc:
            raise ConfigurationError(
                "S3 keys for files need the package 'boto3', which is not installed",
                hint="Run: pip install '.[s3]' in the folder of pgkeep's source, or use files.key.",
            ) from exc
        self._failures = (BotoCoreError, ClientError)
        self._client = boto3.session.Session().client(
            "s3",
            endpoint_url=f"{url.rstrip('/')}/storage/v1/s3",
            region_name=region,
            aws_access_key_id=keys[0],
            aws_secret_access_key=keys[1],
            config=Config(
                s3={"addressing_style": "path"},
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
                retries={"total_max_attempts": 1},
            ),
        )

    def _ask(self, bucket: str, name: str, start: int, etag: str) -> _Answer:
        more: dict[str, Any] = {"Range": f"bytes={start}-", "IfMatch": etag} if start else {}
        try:
            found = self._client.get_object(Bucket=bucket, Key=name, **more)
        except self._failures as exc:
            raise self._refused(exc, f"{bucket}/{name}", "GET") from None
        body = found["Body"]
        blocks = iter(lambda: body.read(_BLOCK_BYTES), b"")
        return _Answer(found["ETag"], start + found["ContentLength"], blocks)

    def write(self, file: NewFile, read: Callable[[], Iterator[bytes]]) -> None:
        """See `FileService`. Whole in memory: this SDK wants to read it twice."""
        data = b"".join(read())

        def put() -> None:
            try:
                self._client.put_object(
                    Bucket=file.bucket, Key=file.name, Body=data,
                    ContentType=file.mime_type or "application/octet-stream",
                    CacheControl=file.cache_control or "max-age=3600",
                )  # fmt: skip
            except self._failures as exc:
                raise self._refused(exc, f"{file.bucket}/{file.name}", "PUT") from None

        self._patiently(put)

    @staticmethod
    def _refused(exc: Exception, where: str, method: str) -> FileGone | FilesUnavailable:
        response: Mapping[str, Any] = getattr(exc, "response", {})
        code = int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        error = response.get("Error", {})
        if error.get("Code") == "NoSuchKey":
            code = 404
        if not code:
            return FilesUnavailable(f"the storage does not answer: {exc}")
        return _refusal(code, str(error.get("Message", "")), where, method)
