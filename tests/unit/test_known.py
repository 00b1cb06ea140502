"""A repository that vanished is told from one that never was."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pgkeep.errors import ConfigurationError, RepositoryMissing, RepositoryVanished
from pgkeep.repository.known import KnownRepositories, Where, open_to_write
from pgkeep.repository.repository import Repository
from pgkeep.testing import MemoryStore

NOW = datetime(2026, 1, 15, 6, tzinfo=UTC)
WHERE = Where("local", "file:///backups")


@pytest.fixture
def known(tmp_path: Path) -> KnownRepositories:
    return KnownRepositories(tmp_path / "state")


def test_an_empty_place_becomes_a_repository_once(known: KnownRepositories) -> None:
    made: list[Repository] = []
    store = MemoryStore()
    for _ in range(2):
        open_to_write(WHERE, store, known, NOW, made.append)
    assert len(made) == 1
    memory = known.recall(WHERE)
    assert memory is not None
    assert (memory.name, memory.since) == ("local", "2026-01-15")


def test_no_repository_is_made_where_one_vanished(known: KnownRepositories) -> None:
    open_to_write(WHERE, MemoryStore(), known, NOW, lambda _: None)
    unmounted = MemoryStore()
    with pytest.raises(RepositoryVanished) as caught:
        open_to_write(WHERE, unmounted, known, NOW + timedelta(days=9), lambda _: None)
    assert caught.value.message == (
        "the repository at file:///backups has vanished: this host has written there since"
        " 2026-01-15"
    )
    assert "pgkeep forget local" in caught.value.hint
    assert unmounted.files == {}


def test_a_new_name_for_the_place_changes_nothing(known: KnownRepositories) -> None:
    open_to_write(WHERE, MemoryStore(), known, NOW, lambda _: None)
    renamed = Where("disk", "file:///backups/")
    with pytest.raises(RepositoryVanished, match="vanished"):
        open_to_write(renamed, MemoryStore(), known, NOW, lambda _: None)


@pytest.mark.parametrize(
    "other", [Where("local", "file:///else"), Where("local", "file:///backups", "https://host")]
)
def test_another_place_is_not_known(known: KnownRepositories, other: Where) -> None:
    open_to_write(WHERE, MemoryStore(), known, NOW, lambda _: None)
    open_to_write(other, MemoryStore(), known, NOW, lambda _: None)


def test_what_is_forgotten_may_begin_anew(known: KnownRepositories) -> None:
    open_to_write(WHERE, MemoryStore(), known, NOW, lambda _: None)
    assert known.forget(WHERE)
    assert not known.forget(WHERE)
    made: list[Repository] = []
    open_to_write(WHERE, MemoryStore(), known, NOW, made.append)
    assert made


def test_a_damaged_memory_is_still_one(known: KnownRepositories, tmp_path: Path) -> None:
    open_to_write(WHERE, MemoryStore(), known, NOW, lambda _: None)
    (file,) = (tmp_path / "state" / "repositories").iterdir()
    file.write_text("{")
    with pytest.raises(RepositoryVanished, match="an unknown day"):
        open_to_write(WHERE, MemoryStore(), known, NOW, lambda _: None)


def test_a_place_with_other_files_is_no_new_repository(known: KnownRepositories) -> None:
    store = MemoryStore()
    store.put("photo", b"x")
    with pytest.raises(RepositoryMissing):
        open_to_write(WHERE, store, known, NOW, lambda _: None)
    assert known.recall(WHERE) is None


def test_a_state_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    known = KnownRepositories(tmp_path / "file")
    with pytest.raises(ConfigurationError, match="cannot write to the state folder"):
        open_to_write(WHERE, MemoryStore(), known, NOW, lambda _: None)
