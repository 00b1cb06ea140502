"""Manifests as JSON: nothing is lost on the way, nothing else is taken for one, old ones open."""

from __future__ import annotations

import json
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from examples import CUSTOMERS_TEXT, ID, contents, manifest
from pgkeep.errors import ManifestInvalid, RepositoryUnsupported
from pgkeep.model import FORMAT, BackupId, Contents, Manifest, ObjectName
from pgkeep.repository.manifests import (
    dump_contents,
    dump_manifest,
    load_contents,
    load_manifest,
)
from pgkeep.repository.objects import read_stream
from pgkeep.repository.repository import Repository
from pgkeep.sealing import PublicSigner, X25519Identity, load_epoch
from pgkeep.stores import LocalStore

FORMAT_1 = Path(__file__).parent.parent / "data" / "formats" / "1"

MOMENTS = st.datetimes(
    min_value=datetime(2020, 1, 1), max_value=datetime(2100, 1, 1), timezones=st.just(UTC)
)

st.register_type_strategy(
    ObjectName, st.binary(min_size=32, max_size=32).map(lambda raw: ObjectName(raw.hex()))
)
st.register_type_strategy(BackupId, MOMENTS.map(BackupId.begin))
st.register_type_strategy(datetime, MOMENTS)
st.register_type_strategy(float, st.floats(0, 1e9))


@settings(max_examples=30, deadline=None)
@given(record=st.builds(Manifest, format=st.just(FORMAT)))
def test_a_manifest_survives_its_file(record: Manifest) -> None:
    data = dump_manifest(record)
    assert load_manifest(data, name="test") == record
    assert dump_manifest(load_manifest(data, name="test")) == data
    assert data.count(b"\n") == 1


@settings(max_examples=30, deadline=None)
@given(record=st.builds(Contents, format=st.just(FORMAT)))
def test_contents_survive_their_file(record: Contents) -> None:
    data = dump_contents(record)
    assert load_contents(data, name="test") == record
    assert data.count(b"\n") == 1


def test_a_manifest_names_no_table_and_no_column() -> None:
    text = dump_manifest(manifest()).decode()
    for word in ("customers", "public", "name TEXT", "app", "search_path"):
        assert word not in text.replace("pgkeep", "")


def test_an_unknown_field_is_passed_over() -> None:
    document = json.loads(dump_manifest(manifest()))
    document["a later idea"] = {"of": [1, 2]}
    document["totals"]["another"] = 7
    assert load_manifest(json.dumps(document).encode(), name="test") == manifest()


@pytest.mark.parametrize("found", [0, 2, "1", "new", None, [1], 1.5])
def test_another_format_is_not_read_but_named(found: object) -> None:
    document = json.loads(dump_manifest(manifest()))
    document["format"] = found
    document["totals"] = "in a form that nobody knows yet"
    with pytest.raises(RepositoryUnsupported) as caught:
        load_manifest(json.dumps(document).encode(), name="shop/x/manifest.json")
    assert caught.value.message == (
        f"shop/x/manifest.json has format {found!r}, and this version of pgkeep reads format 1"
    )
    assert caught.value.hint == "Use a newer pgkeep."


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"null", b"[]", b"1", b'"text"', b"{}", b"\xff\xfe", b'{"format": 1}', b"[" * 9999],
)
def test_garbage_is_no_record(data: bytes) -> None:
    for load in (load_manifest, load_contents):
        with pytest.raises(ManifestInvalid) as caught:
            load(data, name="x.json")
        assert caught.value.message == "x.json is not a valid record"


@pytest.mark.parametrize("field", [field.name for field in fields(Manifest)])
def test_a_missing_field_makes_a_manifest_invalid(field: str) -> None:
    document = json.loads(dump_manifest(manifest()))
    del document[field]
    if field in ("not_kept", "ledger"):  # has a default
        loaded = load_manifest(json.dumps(document).encode(), name="x")
        assert (loaded.not_kept if field == "not_kept" else loaded.ledger) in (0, "")
        return
    with pytest.raises(ManifestInvalid):
        load_manifest(json.dumps(document).encode(), name="x")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("backup", "yesterday"),
        ("backup", f"../{ID}"),
        ("kind", "half"),
        ("tier", "../../etc"),
        ("sequence", "many"),
        ("sequence", 1.5),
        ("started", "soon"),
        ("objects", {}),
        ("objects", [{"name": "../secret", "size_bytes": 1}]),
        ("objects", [{"name": "A" * 64, "size_bytes": 1}]),
        ("objects", [{"name": "a" * 64}]),
        ("totals", None),
        ("database", 7),
    ],
)
def test_a_field_of_another_type_makes_a_manifest_invalid(field: str, value: object) -> None:
    document = json.loads(dump_manifest(manifest()))
    document[field] = value
    with pytest.raises(ManifestInvalid):
        load_manifest(json.dumps(document).encode(), name="x")


def test_a_manifest_is_no_table_of_contents() -> None:
    with pytest.raises(ManifestInvalid):
        load_contents(dump_manifest(manifest()), name="x")
    with pytest.raises(ManifestInvalid):
        load_manifest(dump_contents(contents()), name="x")


# --- a repository as it was written when format 1 was new ------------------------------------


def stored_repository() -> Repository:
    return Repository.open("stored", LocalStore(FORMAT_1 / "repository"))


def test_a_stored_repository_of_format_1_stays_readable() -> None:
    repository = stored_repository()
    signer = PublicSigner.parse((FORMAT_1 / "signer.pub").read_text())
    assert repository.signers_here() == (signer,)
    found = repository.backups(lambda: [signer])
    assert found.problems == ()
    (made,) = found.backups
    assert made.path == "shop/daily/2026-01-15/20260115T060000Z-0123abcd/manifest.json"
    assert not repository.lacks(made.all_objects)

    epoch = load_epoch(
        repository.sealed_epoch_key(made.epoch).age or b""
    )  # not sealed, for this test
    index = X25519Identity.parse((FORMAT_1 / "index.key").read_text().strip())
    described = repository.contents(made, [index])
    assert described == repository.contents(made, [epoch])
    (table,) = described.tables
    (part,) = table.parts
    assert b"".join(read_stream(repository.source, part.text, [epoch])) == CUSTOMERS_TEXT
    assert made.totals.rows == described.rows == 2


def test_what_format_1_says_is_what_was_written() -> None:
    """Every field of the stored records still has its name and its place."""
    repository = stored_repository()
    signer = PublicSigner.parse((FORMAT_1 / "signer.pub").read_text())
    (made,) = repository.backups(lambda: [signer]).backups
    index = X25519Identity.parse((FORMAT_1 / "index.key").read_text().strip())
    described = repository.contents(made, [index])
    stored = json.loads((FORMAT_1 / "contents.json").read_bytes())
    assert stored_part(stored, json.loads(dump_contents(described))) == stored
    stored = json.loads(repository.store.get(made.path))
    assert stored_part(stored, json.loads(dump_manifest(made))) == stored


def stored_part(stored: Any, written: Any) -> Any:
    """Of what is written today, what was there before: later fields may join, none may go."""
    if isinstance(stored, dict) and isinstance(written, dict):
        return {key: stored_part(stored[key], written.get(key)) for key in stored}
    if isinstance(stored, list) and isinstance(written, list) and len(stored) == len(written):
        return [stored_part(one, other) for one, other in zip(stored, written, strict=True)]
    return written
