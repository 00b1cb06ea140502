"""Other operators for old backups: what opens is sealed anew, and nothing is lost on the way."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from examples import MOMENT
from pgkeep.errors import KeyMissing, RepositoryLocked, StoreError, StoreFull
from pgkeep.repository.hostkeys import Epoch
from pgkeep.repository.repository import Repository
from pgkeep.repository.reseal import reseal
from pgkeep.sealing import (
    EpochKey,
    Recipients,
    SealedKey,
    SigningKey,
    X25519Identity,
    load_epoch,
    load_identities,
    new_epoch,
    open_with,
)
from pgkeep.testing import FaultyStore, MemoryStore

SIGNER = SigningKey.generate().public
ALICE, BOB, EVE = (X25519Identity.generate() for _ in range(3))
TO_BOB = Recipients.find([str(BOB.recipient)])


def opener(identity: X25519Identity) -> Callable[[SealedKey, str], bytes]:
    """How the command line opens keys, with this identity."""
    identities = load_identities(f"{identity}\n".encode(), passphrase=None, name="test")
    return lambda sealed, _: open_with(identities, sealed.age or b"")


def epoch_for(identity: X25519Identity) -> Epoch:
    key, private = new_epoch()
    return Epoch(key, Recipients.find([str(identity.recipient)]).seal(private))


def repository_with(store: MemoryStore | FaultyStore, *epochs: Epoch) -> Repository:
    repository, _ = Repository.open_or_create("local", store, now=MOMENT)
    for epoch in epochs:
        repository.prepare(epoch, SIGNER)
    return repository


def opens(identity: X25519Identity, repository: Repository, epoch: str) -> bool:
    try:
        private = load_epoch(opener(identity)(repository.sealed_epoch_key(epoch), ""))
    except KeyMissing:
        return False
    return EpochKey(private.recipient).id == epoch


def test_every_epoch_is_sealed_to_the_new_ones_alone() -> None:
    memory = MemoryStore("shelf")
    first, second = epoch_for(ALICE), epoch_for(ALICE)
    repository = repository_with(memory, first, second)
    memory.put("objects/aa/whatever", b"rows")
    before = memory.files
    done = reseal([repository], TO_BOB, opener(ALICE))
    assert [item.epoch for item in done] == sorted([first.id, second.id])
    assert {item.repositories for item in done} == {("local",)}
    assert [item.problem for item in done] == [None, None]
    for epoch in (first.id, second.id):
        assert opens(BOB, repository, epoch)
        assert not opens(ALICE, repository, epoch)
    changed = {name for name, data in memory.files.items() if before.get(name) != data}
    assert changed == {f"keys/{epoch.id}.age" for epoch in (first, second)}


def test_a_dry_run_writes_nothing() -> None:
    store = FaultyStore(MemoryStore("shelf"))
    repository = repository_with(store, epoch_for(ALICE), epoch_for(EVE))
    store.calls.clear()
    done = reseal([repository], TO_BOB, opener(ALICE), dry_run=True)
    assert sorted(item.problem is None for item in done) == [False, True]
    assert {method for method, _ in store.calls} == {"list", "get"}


def test_what_does_not_open_is_named_and_left_as_it_is() -> None:
    memory = MemoryStore("shelf")
    mine, foreign = epoch_for(ALICE), epoch_for(EVE)
    repository = repository_with(memory, mine, foreign)
    done = {item.epoch: item for item in reseal([repository], TO_BOB, opener(ALICE))}
    assert done[mine.id].problem is None
    assert isinstance(done[foreign.id].problem, KeyMissing)
    assert repository.sealed_epoch_key(foreign.id) == foreign.sealed


def test_a_key_of_somebody_else_under_an_epochs_name_is_not_taken() -> None:
    memory = MemoryStore("shelf")
    epoch, planted = epoch_for(ALICE), epoch_for(ALICE)
    repository = repository_with(memory, epoch)
    memory.put(f"keys/{epoch.id}.age", planted.sealed.age or b"")
    (done,) = reseal([repository], TO_BOB, opener(ALICE))
    assert done.problem is not None
    assert done.problem.message == f"the sealed key of epoch {epoch.id} holds another key"
    assert repository.sealed_epoch_key(epoch.id) == planted.sealed


def test_all_repositories_get_the_same_bytes_and_a_damaged_copy_is_healed() -> None:
    one, other, empty = (MemoryStore(name) for name in ("one", "other", "empty"))
    epoch = epoch_for(ALICE)
    repositories = [
        repository_with(one, epoch), repository_with(other, epoch), repository_with(empty),
    ]  # fmt: skip
    one.put(f"keys/{epoch.id}.age", b"damaged")
    reseal(repositories, TO_BOB, opener(ALICE))
    assert opens(BOB, repositories[0], epoch.id)
    assert one.files[f"keys/{epoch.id}.age"] == other.files[f"keys/{epoch.id}.age"]
    assert f"keys/{epoch.id}.age" not in empty.files


def test_the_form_that_nobody_needs_any_more_goes_last() -> None:
    store = FaultyStore(MemoryStore("shelf"))
    epoch = epoch_for(ALICE)
    repository = repository_with(store, Epoch(epoch.key, SealedKey(epoch.sealed.age, b"for gpg")))
    store.calls.clear()
    reseal([repository], TO_BOB, opener(ALICE))
    written = [call[:2] for call in store.calls if call[0] in ("put", "delete")]
    assert written == [("put", f"keys/{epoch.id}.age"), ("delete", f"keys/{epoch.id}.gpg")]


def test_a_write_that_fails_leaves_the_old_and_can_be_done_again() -> None:
    store = FaultyStore(MemoryStore("shelf"))
    epoch = epoch_for(ALICE)
    both = Epoch(epoch.key, SealedKey(epoch.sealed.age, b"for gpg"))
    repository = repository_with(store, both)
    store.fail("put", StoreFull("the disk is full"), match="keys/*")
    with pytest.raises(StoreFull):
        reseal([repository], TO_BOB, opener(ALICE))
    assert repository.sealed_epoch_key(epoch.id) == both.sealed
    reseal([repository], TO_BOB, opener(ALICE))
    assert opens(BOB, repository, epoch.id)


def test_a_store_that_gives_back_something_else_loses_nothing_more() -> None:
    memory = MemoryStore("shelf")
    epoch = epoch_for(ALICE)
    both = Epoch(epoch.key, SealedKey(epoch.sealed.age, b"for gpg"))
    store = FaultyStore(memory)
    repository = repository_with(store, both)
    store.lose("keys/*")
    with pytest.raises(StoreError, match=r"does not give back keys/.*\.age as it was written"):
        reseal([repository], TO_BOB, opener(ALICE))
    assert repository.sealed_epoch_key(epoch.id) == both.sealed


def test_nothing_is_sealed_anew_while_a_backup_runs() -> None:
    repository = repository_with(MemoryStore("shelf"), epoch_for(ALICE))
    with repository.exclusive("backup of 'shop'"), pytest.raises(RepositoryLocked):
        reseal([repository], TO_BOB, opener(ALICE))
