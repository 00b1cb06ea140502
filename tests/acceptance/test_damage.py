"""Stored bytes that are damaged, missing, swapped or forged: told, named, and never restored."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from comparison import assert_same, load_statements, take_picture, value
from conftest import Workbench
from failures import (
    SMALL_SHOP,
    backups,
    first_backup,
    manifest_path,
    objects_of,
    run_sql,
    told,
)
from pgkeep.recovery import fill
from pgkeep.repository.hostkeys import HostKeys
from pgkeep.sealing import SigningKey

NewDatabase = Callable[[], str]
Harm = Callable[[Path], None]


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def truncate(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) - 16])


def empty(path: Path) -> None:
    path.write_bytes(b"")


HARMS: dict[str, tuple[Harm, str]] = {
    "damaged": (flip, "is damaged"),
    "truncated": (truncate, "bytes instead of"),
    "empty": (empty, "has 0 bytes instead of"),
    "missing": (Path.unlink, "is missing from"),
}


@pytest.fixture
def backup(workbench: Workbench, new_database: NewDatabase) -> str:
    """A backup of the small shop; its id."""
    source = new_database()
    load_statements(source, SMALL_SHOP)
    return first_backup(workbench, source)


@pytest.mark.parametrize("harm", HARMS)
def test_a_harmed_object_is_named_with_its_table(
    workbench: Workbench, new_database: NewDatabase, backup: str, harm: str
) -> None:
    act, expected = HARMS[harm]
    path = objects_of(workbench, backup, "public.orders")[1]
    act(path)
    target = new_database()
    error = told(workbench.pgkeep("restore", "shop", "--target", target, expect=None), "E053")
    assert f"object {path.name}" in error.message
    assert expected in error.message
    assert "it belongs to table public.orders" in error.message
    assert "--go-on-after-damage" in error.hint
    assert value(target, "SELECT count(*) FROM pg_class WHERE relname = 'orders'") == (
        1 if harm == "damaged" else 0
    )
    dump = workbench.folder / "dump.sql"
    error = told(
        workbench.pgkeep("export", "shop", "-o", str(dump), expect=None),
        "E061" if harm == "missing" else "E053",
    )
    assert f"object {path.name}" in error.message
    assert "table public.orders" in error.message
    assert not dump.exists()


@pytest.mark.parametrize("frozen_from", [0, fill._WORTH_FREEZING])
@pytest.mark.parametrize("harm", HARMS)
def test_all_the_rest_is_restored_on_request(
    workbench: Workbench,
    new_database: NewDatabase,
    backup: str,
    harm: str,
    frozen_from: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also of a table that is loaded whole, to be frozen: it is begun anew, part by part."""
    monkeypatch.setattr(fill, "_WORTH_FREEZING", frozen_from)
    act, _ = HARMS[harm]
    path = objects_of(workbench, backup, "public.orders")[0]
    act(path)
    target = new_database()
    outcome = workbench.pgkeep(
        "restore",
        "shop",
        "--target",
        target,
        "--go-on-after-damage",
        "--json",
        "--jobs",
        "1",
        expect=None,
    )
    error = told(outcome, "E042")
    assert error.message.startswith(
        "restored without what is damaged in the repository: table public.orders"
        f" (object {path.name}"
    )
    document = outcome.document
    assert isinstance(document, dict)
    assert document["proven"] is False
    assert [item["what"] for item in document["lost"]] == ["table public.orders"]
    assert document["differences"] == []
    assert value(target, "SELECT count(*) FROM users") == 3000
    assert value(target, "SELECT count(*) FROM notes") == 500
    assert value(target, "SELECT length(lo_get(70001))") == 8000
    assert 0 < int(str(value(target, "SELECT count(*) FROM orders"))) < 6000
    comment = value(target, "SELECT shobj_description(oid, 'pg_database') FROM pg_database"
                            " WHERE datname = current_database()")  # fmt: skip
    assert str(comment).startswith("pgkeep: incomplete")


def test_keys_to_lost_rows_are_lost_too_and_nothing_else(
    workbench: Workbench, new_database: NewDatabase, backup: str
) -> None:
    for path in objects_of(workbench, backup, "public.users"):
        path.unlink()
    target = new_database()
    outcome = workbench.pgkeep(
        "restore", "shop", "--target", target, "--go-on-after-damage", "--json", expect=None
    )
    message = told(outcome, "E042").message
    assert "table public.users" in message
    assert "fk constraint orders orders_user_id_fkey" in message
    document = outcome.document
    assert isinstance(document, dict)
    lost = [item["what"] for item in document["lost"]]
    assert lost == ["table public.users", "fk constraint orders orders_user_id_fkey"]
    assert value(target, "SELECT count(*) FROM users") == 0
    assert value(target, "SELECT count(*) FROM orders") == 6000
    assert value(target, "SELECT count(*) FROM totals") == 3000
    assert value(target, "SELECT count(*) FROM pg_constraint WHERE conname = 'orders_pkey'") == 1


def test_lost_large_objects_leave_the_rest(
    workbench: Workbench, new_database: NewDatabase, backup: str
) -> None:
    for path in objects_of(workbench, backup, "large objects"):
        path.unlink()
    target = new_database()
    outcome = workbench.pgkeep(
        "restore", "shop", "--target", target, "--go-on-after-damage", expect=None
    )
    assert "large objects" in told(outcome, "E042").message
    assert value(target, "SELECT count(*) FROM orders") == 6000
    assert value(target, "SELECT count(*) FROM pg_largeobject_metadata") == 0


def test_swapped_objects_are_noticed(
    workbench: Workbench, new_database: NewDatabase, backup: str
) -> None:
    users = objects_of(workbench, backup, "public.users")[0]
    orders = objects_of(workbench, backup, "public.orders")[0]
    one, other = users.read_bytes(), orders.read_bytes()
    users.write_bytes(other)
    orders.write_bytes(one)
    error = told(
        workbench.pgkeep("restore", "shop", "--target", new_database(), expect=None), "E053"
    )
    assert users.name in error.message or orders.name in error.message
    assert "it belongs to table public." in error.message


def test_harmed_definitions_are_told_and_rows_alone_can_be_had(
    workbench: Workbench, new_database: NewDatabase, backup: str
) -> None:
    (path,) = objects_of(workbench, backup, "definitions")
    flip(path)
    target = new_database()
    error = told(workbench.pgkeep("restore", "shop", "--target", target, expect=None), "E053")
    assert path.name in error.message
    assert error.message.endswith("it belongs to the definitions of all tables")
    assert "--data-only" in error.hint
    run_sql(target, *(statement for statement in SMALL_SHOP if statement.startswith("CREATE")))
    workbench.pgkeep("restore", "shop", "--target", target, "--data-only")
    assert value(target, "SELECT count(*) FROM orders") == 6000


def test_a_harmed_table_of_contents_is_told(
    workbench: Workbench, new_database: NewDatabase, backup: str
) -> None:
    manifest = json.loads(manifest_path(workbench, backup).read_bytes())
    name = manifest["contents"][0]["name"]
    path = workbench.repository / "objects" / name[:2] / name
    flip(path)
    for command in (["show", "shop"], ["restore", "shop", "--target", new_database()]):
        error = told(workbench.pgkeep(*command, expect=None), "E053")
        assert error.message.startswith(f"object {name} in ")
        assert error.message.endswith(f"it is the table of contents of {backup}")
    path.unlink()
    assert name in told(workbench.pgkeep("show", "shop", expect=None), "E061").message


def test_a_missing_epoch_key_is_told(
    workbench: Workbench, new_database: NewDatabase, backup: str
) -> None:
    epoch = json.loads(manifest_path(workbench, backup).read_bytes())["epoch"]
    key = workbench.repository / "keys" / f"{epoch}.age"
    kept = key.read_bytes()
    key.unlink()
    target = new_database()
    error = told(workbench.pgkeep("restore", "shop", "--target", target, expect=None), "E050")
    assert error.message.startswith(f"keys/{epoch}.age is missing from ")
    key.write_bytes(kept[:-1] + bytes([kept[-1] ^ 1]))
    told(workbench.pgkeep("restore", "shop", "--target", target, expect=None), "E053")


# --- manifests ------------------------------------------------------------------------------


def change(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b'"rows":', b'"rows":1', 1))


def remove_signature(path: Path) -> None:
    path.with_name("manifest.json.sig").unlink()


def sign_as_somebody_else(path: Path) -> None:
    path.with_name("manifest.json.sig").write_bytes(SigningKey.generate().sign(path.read_bytes()))


def break_signature(path: Path) -> None:
    path.with_name("manifest.json.sig").write_text("-----BEGIN SSH SIGNATURE-----\nA\n")


FORGERIES: dict[str, tuple[Harm, str]] = {
    "changed": (change, "the bytes do not match the signature by SHA256:"),
    "unsigned": (remove_signature, "has no signature"),
    "signed by another": (sign_as_somebody_else, "signed by another key: SHA256:"),
    "with a torn signature": (break_signature, "not a signature: no BEGIN and END line"),
    "truncated": (truncate, "the bytes do not match the signature by SHA256:"),
}


@pytest.mark.parametrize("forgery", FORGERIES)
def test_a_forged_manifest_is_no_backup(
    workbench: Workbench, new_database: NewDatabase, backup: str, forgery: str
) -> None:
    act, expected = FORGERIES[forgery]
    act(manifest_path(workbench, backup))
    listed = workbench.pgkeep("list", "--json", expect=3)
    assert listed.document == []
    assert expected in listed.err
    target = new_database()
    for command in (
        ["restore", "shop", "--target", target],
        ["restore", "shop", "--target", target, "--backup", backup],
        ["show", "shop"],
        ["export", "shop", "-o", str(workbench.folder / "dump.sql")],
    ):
        error = told(workbench.pgkeep(*command, expect=None), "E052")
        assert expected in error.message
        assert backup in error.message
    assert value(target, "SELECT count(*) FROM pg_class WHERE relname = 'orders'") == 0


@pytest.mark.parametrize(
    "place",
    [
        "other/manual/2024-01-15/{}",
        "shop/daily/2024-01-15/{}",
        "shop/manual/2020-01-01/{}",
        "shop/manual/2024-01-15/x",
    ],
)
def test_a_copied_manifest_is_told_and_hides_nothing(
    workbench: Workbench, new_database: NewDatabase, backup: str, place: str
) -> None:
    original = manifest_path(workbench, backup)
    copy = workbench.repository / place.format(backup)
    copy.parent.mkdir(parents=True)
    shutil.copytree(original.parent, copy)
    listed = workbench.pgkeep("list", "--json", expect=3)
    document = listed.document
    assert isinstance(document, list)
    assert [(item["database"], item["backup"]) for item in document] == [("shop", backup)]
    assert f"{place.format(backup)}/manifest.json" in listed.err
    assert f"is a copy of {original.relative_to(workbench.repository)}" in listed.err
    workbench.pgkeep(
        "restore", "shop", "--target", new_database(), expect=0 if place.startswith("other") else 3
    )
    if place.startswith("other"):
        error = told(workbench.pgkeep("show", "other", expect=None), "E052")
        assert "is a copy of shop/" in error.message


def test_a_newer_format_is_told(
    workbench: Workbench, new_database: NewDatabase, backup: str
) -> None:
    path = manifest_path(workbench, backup)
    data = path.read_bytes().replace(b'"format":1', b'"format":7', 1)
    path.write_bytes(data)
    key = HostKeys(workbench.state).signing_key()
    path.with_name("manifest.json.sig").write_bytes(key.sign(data))
    error = told(
        workbench.pgkeep("restore", "shop", "--target", new_database(), expect=None), "E066"
    )
    assert error.message.endswith("has format 7, and this version of pgkeep reads format 1")
    assert error.hint == "Use a newer pgkeep."
    path.write_bytes(b"[]")
    path.with_name("manifest.json.sig").write_bytes(key.sign(b"[]"))
    told(workbench.pgkeep("show", "shop", expect=None), "E068")


def test_an_older_whole_backup_is_used_and_the_forged_newer_one_is_told(
    workbench: Workbench, new_database: NewDatabase, backup: str
) -> None:
    workbench.pgkeep("backup", "shop")
    newer, older = backups(workbench)
    assert older == backup
    change(manifest_path(workbench, newer))
    target = new_database()
    outcome = workbench.pgkeep("restore", "shop", "--target", target, expect=3)
    assert newer in outcome.err
    assert f"restored {older}" in outcome.out
    error = told(
        workbench.pgkeep("restore", "shop", "--target", target, "--backup", newer, expect=None),
        "E052",
    )
    assert newer in error.message


def test_a_backup_after_damage_is_whole_again(
    workbench: Workbench, new_database: NewDatabase, backup: str
) -> None:
    for path in (workbench.repository / "objects").rglob("*"):
        if path.is_file():
            flip(path)
    change(manifest_path(workbench, backup))
    workbench.pgkeep("backup", "shop")
    target = new_database()
    workbench.pgkeep("restore", "shop", "--target", target, expect=3)
    source = os.environ["SHOP_DATABASE_URL"]
    assert_same(take_picture(source), take_picture(target))
    with psycopg.connect(target) as connection:
        assert connection.execute("SELECT count(*) FROM users").fetchone() == (3000,)
