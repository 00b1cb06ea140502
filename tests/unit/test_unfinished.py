"""What a backup that was cut off had stored: noted, found again, and used only where it fits."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from examples import CUSTOMERS, MOMENT, contents, stream
from pgkeep.backup.earlier import Earlier, stored_tables
from pgkeep.backup.plan import StoredTable
from pgkeep.backup.unfinished import StoredPart, UnfinishedBackup, still_usable
from pgkeep.model import Part, TableName
from pgkeep.sealing import X25519Identity

KEY = X25519Identity.generate()
ORDERS = TableName("public", "orders")


def part(name: str = "a", first: int = 0, end: int | None = 16, horizon: int = 100) -> Part:
    return Part(first, end, 2, stream(name), horizon)


def stored(
    one: Part | None = None, *, table: TableName = ORDERS, key: str = "k", epoch: str = "e"
) -> StoredPart:
    return StoredPart(table, key, one or part(), epoch, MOMENT)


def sizes(*parts: Part) -> dict[str, int]:
    return {item.name.path: item.size_bytes for one in parts for item in one.text.objects}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "unfinished" / "shop"


def noted(path: Path, *parts: StoredPart) -> UnfinishedBackup:
    note = UnfinishedBackup(path, KEY)
    for one in parts:
        note.add(one)
    note.close()
    return note


THREE = (stored(part("a")), stored(part("b", 16, 32)), stored(part("c", 32, None)))


def test_what_is_noted_is_found_again_and_more_can_be_added(path: Path) -> None:
    assert UnfinishedBackup(path, KEY).parts() == ()
    noted(path, *THREE[:2])
    noted(path, THREE[2])
    assert UnfinishedBackup(path, KEY).parts() == THREE
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_the_note_shows_no_name(path: Path) -> None:
    noted(path, *THREE)
    assert b"orders" not in path.read_bytes()
    assert UnfinishedBackup(path, X25519Identity.generate()).parts() == ()


def test_a_note_that_breaks_off_anywhere_gives_its_whole_records(path: Path) -> None:
    noted(path, *THREE)
    whole = path.read_bytes()
    third = len(whole) // 3
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        found = UnfinishedBackup(path, KEY).parts()
        assert found == THREE[: len(found)]
        assert abs(len(found) - length // third) <= 1
        noted(path, THREE[2])
        assert UnfinishedBackup(path, KEY).parts() == (*found, THREE[2])


@pytest.mark.parametrize("where", [0, 3, 4, 40, 150, -1])
def test_a_damaged_record_ends_the_note(path: Path, where: int) -> None:
    noted(path, THREE[0])
    first = path.read_bytes()
    noted(path, THREE[1])
    data = bytearray(path.read_bytes())
    data[len(first) + where if where >= 0 else -1] ^= 0x55
    path.write_bytes(data)
    assert UnfinishedBackup(path, KEY).parts() == THREE[:1]


def test_what_is_forgotten_is_gone(path: Path) -> None:
    note = noted(path, *THREE)
    note.forget()
    note.forget()
    assert not path.exists()


def test_a_note_that_cannot_be_written_ends_no_backup(tmp_path: Path) -> None:
    (tmp_path / "unfinished").write_text("in the way")
    note = UnfinishedBackup(tmp_path / "unfinished" / "shop", KEY)
    note.add(stored())
    note.add(stored())
    assert note.problem == "file exists"
    assert note.parts() == ()
    note.forget()


def test_only_parts_of_this_epoch_that_are_not_too_old_are_used() -> None:
    def usable(days: float, epoch: str = "e") -> bool:
        now = MOMENT + timedelta(days=days)
        return bool(still_usable([stored()], epoch=epoch, now=now, full_read_days=30))

    assert usable(0)
    assert usable(29.9)
    assert not usable(30)
    assert not usable(-0.1), "this host's clock was put back"
    assert not usable(1, epoch="other")


# --- together with a published backup ---------------------------------------------------------


def test_a_part_is_used_when_all_its_objects_may_be() -> None:
    parts = [one.part for one in THREE]
    earlier = Earlier(unfinished=THREE)
    assert stored_tables(earlier, sizes(*parts)) == {ORDERS: StoredTable("k", tuple(parts))}
    assert stored_tables(earlier, sizes(parts[1]))[ORDERS].parts == (parts[1],)
    wrong = {name: size + 1 for name, size in sizes(*parts).items()}
    assert stored_tables(earlier, wrong) == {}


def test_the_last_part_of_a_range_counts() -> None:
    again = part("d", horizon=200)
    earlier = Earlier(unfinished=(*THREE, stored(again)))
    found = stored_tables(earlier, sizes(*(one.part for one in THREE), again))
    assert found[ORDERS].parts == (again, THREE[1].part, THREE[2].part)


def test_parts_of_an_unfinished_backup_go_before_those_of_a_published_one() -> None:
    base = contents()
    (table,) = [one for one in base.tables if one.name == CUSTOMERS]
    table = replace(table, key="k", parts=(part("x"), part("y", 16, None)))
    base = replace(base, tables=(table,))
    newer = part("z", 16, None)
    known = sizes(*table.parts, newer)

    def found(key: str) -> StoredTable:
        unfinished = (stored(newer, table=CUSTOMERS, key=key),)
        return stored_tables(Earlier(contents=base, unfinished=unfinished), known)[CUSTOMERS]

    assert found("k") == StoredTable("k", (newer, table.parts[0]))
    assert found("other") == StoredTable("other", (newer,)), "it was read later"


def test_the_last_full_read_is_that_of_the_oldest_part() -> None:
    late = replace(stored(), read=MOMENT + timedelta(days=2))
    assert Earlier().full_read is None
    assert Earlier(unfinished=(late, stored())).full_read == MOMENT
    base = replace(contents(), full_read=MOMENT - timedelta(days=3))
    assert Earlier(contents=base, unfinished=(late,)).full_read == base.full_read
