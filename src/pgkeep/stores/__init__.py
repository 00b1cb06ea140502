"""Places for bytes, behind one contract (`pgkeep.stores.base`)."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

from pgkeep.errors import ConfigurationError
from pgkeep.stores.base import Bytes, Store, StoredFile
from pgkeep.stores.local import LocalStore

__all__ = ["Bytes", "LocalStore", "Store", "StoredFile", "open_store"]


def open_store(url: str) -> Store:
    """The store that a URL names; `ConfigurationError` if no store of that kind exists."""
    parts = urlsplit(url)
    if parts.scheme == "file" and parts.netloc in ("", "localhost"):
        path = Path(unquote(parts.path))
        if path.is_absolute() and path != Path("/"):
            return LocalStore(path)
    raise ConfigurationError(
        f"{url!r} is not a repository that this version can open",
        hint="Use file:///absolute/path.",
    )
