"""Places for bytes, behind one contract (`pgkeep.stores.base`)."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

from pgkeep.errors import ConfigurationError
from pgkeep.pacing import Pace
from pgkeep.stores.base import Bytes, Store, StoredFile
from pgkeep.stores.facts import StoreFacts
from pgkeep.stores.local import LocalStore
from pgkeep.stores.remote import Place, StoreSettings, parse_place
from pgkeep.stores.wrap import (
    AddingStore,
    RetryingStore,
    RetryPolicy,
    StoreAround,
    ThrottledStore,
)

__all__ = [
    "AddingStore", "Bytes", "LocalStore", "RetryPolicy", "RetryingStore", "Store", "StoreAround",
    "StoreFacts", "StoreSettings", "StoredFile", "ThrottledStore", "open_store",
]  # fmt: skip


def open_store(url: str, settings: StoreSettings | None = None) -> Store:
    """The store that a URL names: `file:///folder`, `s3://bucket/folder` or `gs://bucket/folder`.

    Nothing is connected to yet. `ConfigurationError` if the URL or the settings cannot be right,
    or if what such a store needs is not installed.
    """
    settings = settings or StoreSettings()
    scheme = url.partition("://")[0]
    if scheme in ("s3", "gs"):
        store = _remote_store(parse_place(url), settings)
        return AddingStore(RetryingStore(store, RetryPolicy(attempts=settings.attempts)))
    return _throttled(_local_store(url), settings.upload_limit, settings.download_limit)


def _local_store(url: str) -> Store:
    parts = urlsplit(url)
    if parts.scheme == "file" and parts.netloc in ("", "localhost"):
        path = Path(unquote(parts.path))
        if path.is_absolute() and path != Path("/"):
            return LocalStore(path)
    shown = re.sub(r"//[^/]*@", "//", url)  # without a password
    raise ConfigurationError(
        f"{shown!r} is not a repository that this version can open",
        hint="Use file:///absolute/path, s3://bucket/folder or gs://bucket/folder.",
    )


def _remote_store(place: Place, settings: StoreSettings) -> Store:
    # The SDKs take long to import, and not everybody has them.
    try:
        if place.scheme == "s3":
            from pgkeep.stores.s3 import S3Store

            return S3Store(place, settings)
        from pgkeep.stores.gcs import GcsStore

        return _throttled(GcsStore(place, settings), None, settings.download_limit)
    except ModuleNotFoundError as exc:
        extra = "s3" if place.scheme == "s3" else "gcs"
        raise ConfigurationError(
            f"{place.url!r} needs the package {exc.name!r}, which is not installed",
            hint=f"Run: pip install '.[{extra}]' in the folder of pgkeep's source.",
        ) from exc


def _throttled(store: Store, upload: int | None, download: int | None) -> Store:
    if upload is None and download is None:
        return store
    return ThrottledStore(store, upload=Pace(upload), download=Pace(download))
