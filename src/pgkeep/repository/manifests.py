"""Manifests and tables of contents as JSON, checked against their types on reading."""

from __future__ import annotations

from hashlib import sha256
from typing import Any, TypeVar

from pydantic_core import from_json

from pgkeep.errors import ManifestInvalid, RepositoryUnsupported
from pgkeep.model import FORMAT, Contents, Manifest
from pgkeep.records import JsonForm

Record = TypeVar("Record", Manifest, Contents)

_MANIFEST = JsonForm(Manifest)
_CONTENTS = JsonForm(Contents)


def dump_manifest(manifest: Manifest) -> bytes:
    """A manifest as JSON in UTF-8, fields in the order of the type, one line."""
    return _MANIFEST.dump(manifest) + b"\n"


def manifest_digest(manifest: Manifest) -> str:
    """By which the next manifest names it."""
    return sha256(dump_manifest(manifest)).hexdigest()


def dump_contents(contents: Contents) -> bytes:
    """A table of contents as JSON in UTF-8, fields in the order of the type, one line."""
    return _CONTENTS.dump(contents) + b"\n"


def load_manifest(data: bytes, *, name: str) -> Manifest:
    """A manifest from its JSON; `ManifestInvalid` or `RepositoryUnsupported` otherwise."""
    return _load(_MANIFEST, data, name)


def load_contents(data: bytes, *, name: str) -> Contents:
    """A table of contents from its JSON; errors as for a manifest."""
    return _load(_CONTENTS, data, name)


def _load(adapter: JsonForm[Record], data: bytes, name: str) -> Record:
    try:
        check_format(data, name)
        return adapter.load(data)
    except (ValueError, TypeError, KeyError) as exc:
        raise ManifestInvalid(
            f"{name} is not a valid record",
            hint="The file is damaged, or was not written by pgkeep.",
        ) from exc


def check_format(data: bytes, name: str) -> None:
    """`RepositoryUnsupported` if a record is of another format than this version knows."""
    document: Any = from_json(data)
    found = document["format"]
    if found != FORMAT:
        raise RepositoryUnsupported(
            f"{name} has format {found!r}, and this version of pgkeep reads format {FORMAT}",
            hint="Use a newer pgkeep.",
        )
