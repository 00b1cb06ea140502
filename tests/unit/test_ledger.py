"""The ledger: what is edited, removed or cut off is found; a crash and a full disk harm nothing."""

from __future__ import annotations

import errno
import multiprocessing
import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from pgkeep.errors import NotAuthentic
from pgkeep.repository.ledger import Access, Anchor, Ledger, anchor, folder, read_anchors
from pgkeep.repository.repository import Repository
from pgkeep.sealing import SigningKey
from pgkeep.testing import MemoryStore

NOW = datetime(2026, 1, 15, 12, 0, tzinfo=UTC)


def access(what: str = "restore") -> Access:
    return Access(NOW, "began", what, "shop", "ada@host", "ssh from 10.0.0.7", "drop, ünì\n")


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    made = Ledger(tmp_path / "state")
    for number in range(1, 7):
        assert made.append(access(f"command {number}")) == number
    return made


def lines(ledger: Ledger) -> list[bytes]:
    return ledger.path.read_bytes().splitlines(keepends=True)


def here(ledger: Ledger) -> Anchor:
    head = ledger.head()
    assert head is not None
    return Anchor(1, "host", head.sequence, head.sha256, NOW)


def test_what_is_written_can_be_read_and_is_private(ledger: Ledger) -> None:
    assert [one.what for one in ledger.entries()] == [f"command {n}" for n in range(1, 7)]
    assert next(ledger.entries()).reason == "drop, ünì\n"
    assert ledger.path.stat().st_mode & 0o077 == 0
    found = ledger.verify({"local": (here(ledger),)})
    assert (found.entries, found.anchors, found.problems) == (6, 1, ())


def edit(ledger: Ledger) -> None:
    ledger.path.write_bytes(ledger.path.read_bytes().replace(b"command 3", b"command 9"))


def remove(ledger: Ledger) -> None:
    kept = lines(ledger)
    ledger.path.write_bytes(b"".join(kept[:2] + kept[3:]))


def remove_the_first(ledger: Ledger) -> None:
    ledger.path.write_bytes(b"".join(lines(ledger)[1:]))


def swap(ledger: Ledger) -> None:
    kept = lines(ledger)
    ledger.path.write_bytes(b"".join([kept[0], kept[2], kept[1], *kept[3:]]))


def cut_off(ledger: Ledger) -> None:
    ledger.path.write_bytes(b"".join(lines(ledger)[:4]))


def cut_in_the_middle_of_a_line(ledger: Ledger) -> None:
    ledger.path.write_bytes(ledger.path.read_bytes()[:-20])


def put_in(ledger: Ledger) -> None:
    kept = lines(ledger)
    ledger.path.write_bytes(b"".join([*kept[:3], b"not an entry\n", *kept[3:]]))


def edit_the_last(ledger: Ledger) -> None:
    ledger.path.write_bytes(ledger.path.read_bytes().replace(b"command 6", b"command 7"))


def delete(ledger: Ledger) -> None:
    ledger.path.unlink()


ATTACKS = [edit, remove, remove_the_first, swap, cut_off, cut_in_the_middle_of_a_line, put_in,
           edit_the_last, delete]  # fmt: skip


@pytest.mark.parametrize("attack", ATTACKS)
def test_what_was_changed_is_found(ledger: Ledger, attack: Callable[[Ledger], None]) -> None:
    attack(ledger)
    assert ledger.verify({}).problems


@pytest.mark.parametrize("attack", ATTACKS)
def test_what_was_changed_is_found_also_after_the_next_entry(
    ledger: Ledger, attack: Callable[[Ledger], None]
) -> None:
    attack(ledger)
    ledger.append(access())
    assert ledger.verify({}).problems


def test_a_chain_that_was_made_anew_shows_against_an_anchor(ledger: Ledger) -> None:
    kept = here(ledger)
    ledger.path.unlink()
    ledger.path.with_name("ledger.head").unlink()
    for number in range(1, 9):
        ledger.append(access(f"innocent {number}"))
    assert ledger.verify({}).problems == (), "it agrees with itself"
    assert "edited" in ledger.verify({"far": (kept,)}).problems[0]


def test_a_line_that_a_crash_cut_off_is_no_forgery(ledger: Ledger) -> None:
    """A crash is different: the head beside it was not written yet either."""
    whole = ledger.path.read_bytes()
    ledger.path.write_bytes(whole + b'{"sequence":7,"previ')
    ledger.append(access("after the crash"))
    assert ledger.verify({}).problems == ()
    assert [one.sequence for one in ledger.entries()][-2:] == [6, 7]


def test_a_full_disk_leaves_no_half_of_an_entry(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = ledger.path.read_bytes()
    real = os.write
    calls = []

    def write(handle: int, data: bytes) -> int:
        calls.append(1)
        if len(calls) > 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(handle, data[:10])

    monkeypatch.setattr(os, "write", write)
    with pytest.raises(OSError, match="No space"):
        ledger.append(access())
    assert ledger.path.read_bytes() == before


def _append_many(folder: Path) -> None:
    for _ in range(20):
        Ledger(folder).append(access())


def test_processes_at_once_keep_one_chain(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("fork")
    workers = [spawn.Process(target=_append_many, args=(tmp_path,)) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    found = Ledger(tmp_path).verify({})
    assert (found.entries, found.problems) == (80, ())


def test_an_anchor_is_signed_and_a_forged_one_is_told(ledger: Ledger) -> None:
    store, key, other = MemoryStore(), SigningKey.generate(), SigningKey.generate()
    repository, _ = Repository.open_or_create("local", store, now=NOW)
    head = ledger.head()
    assert head is not None
    name, data = anchor(head, "my host", NOW, key)
    assert name.startswith(folder("my host"))
    store.put(name, data)
    found, problems = read_anchors(repository, "my host", [key.public])
    assert [one.sha256 for one in found] == [head.sha256]
    assert problems == ()
    store.put(name, anchor(head, "my host", NOW, other)[1])
    found, problems = read_anchors(repository, "my host", [key.public])
    assert found == ()
    assert isinstance(problems[0], NotAuthentic)
