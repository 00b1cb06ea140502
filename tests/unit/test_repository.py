"""A repository on stores that do and do not keep their word: nothing false counts as a backup."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import timedelta
from hashlib import sha256

import pytest

from examples import ID, MOMENT, contents, manifest, manifest_in, publish_example
from pgkeep.errors import (
    BackupMissing,
    DamagedObject,
    KeyMissing,
    ManifestInvalid,
    NotAuthentic,
    ObjectMissing,
    PgkeepError,
    RepositoryMissing,
    RepositoryUnsupported,
    StoreError,
    StoreFull,
)
from pgkeep.model import BackupId, Kind, Manifest, Tier
from pgkeep.repository.hostkeys import Epoch
from pgkeep.repository.manifests import dump_contents, dump_manifest
from pgkeep.repository.objects import StreamWriter
from pgkeep.repository.repository import Listing, Repository, choose_backup
from pgkeep.sealing import (
    PublicSigner,
    SealedKey,
    SigningKey,
    X25519Identity,
    allowed_signers,
    new_epoch,
)
from pgkeep.testing import FaultyStore, MemoryStore

KEY = SigningKey.generate()
STRANGER = SigningKey.generate()


def trusted() -> Sequence[PublicSigner]:
    return [KEY.public]


def new_repository(store: MemoryStore | FaultyStore) -> Repository:
    repository, made = Repository.open_or_create("local", store, now=MOMENT)
    assert made
    return repository


@pytest.fixture
def memory() -> MemoryStore:
    return MemoryStore("shelf")


@pytest.fixture
def store(memory: MemoryStore) -> FaultyStore:
    return FaultyStore(memory)


@pytest.fixture
def repository(store: FaultyStore) -> Repository:
    return new_repository(store)


@pytest.fixture
def epoch() -> Epoch:
    key, private = new_epoch()
    return Epoch(key, SealedKey(b"sealed " + private[:8]))


def a_backup(days: int = 0, *, digits: str = "0123abcd", **changes: object) -> dict[str, object]:
    """Changes that make the example another backup, so many days later."""
    started = MOMENT + timedelta(days=days)
    backup = BackupId(f"{started:%Y%m%dT%H%M%SZ}-{digits}")
    return {"backup": backup, "started": started, **changes}


# --- making and opening ---------------------------------------------------------------------


def test_a_repository_is_made_once_and_says_how_to_restore_without_pgkeep(
    memory: MemoryStore, epoch: Epoch
) -> None:
    repository, made = Repository.open_or_create("local", memory, now=MOMENT)
    again, made_again = Repository.open_or_create("local", memory, now=MOMENT)
    assert (made, made_again) == (True, False)
    assert repository.store is again.store is memory
    assert list(memory.files) == ["repo.json"]
    again.prepare(epoch, KEY.public)
    assert memory.files["RESTORE.txt"].startswith(b"HOW TO RESTORE")
    assert json.loads(memory.files["repo.json"]) == {
        "format": 1, "created": "2026-01-15T06:00:00+00:00", "by": "pgkeep",
    }  # fmt: skip


def test_no_repository_is_made_among_other_files(memory: MemoryStore) -> None:
    memory.put("photos/1.jpg", b"x")
    with pytest.raises(RepositoryMissing, match="there is no repository at memory://shelf"):
        Repository.open_or_create("local", memory, now=MOMENT)
    assert list(memory.files) == ["photos/1.jpg"]


def test_making_a_repository_can_be_interrupted_and_done_again(store: FaultyStore) -> None:
    store.fail("put", StoreFull("the disk is full"), match="repo.json")
    with pytest.raises(StoreFull):
        Repository.open_or_create("local", store, now=MOMENT)
    _, made = Repository.open_or_create("local", store, now=MOMENT)
    assert made


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"{}", b"null", b"\xff"])
def test_a_damaged_description_is_said_to_be_damaged(memory: MemoryStore, text: bytes) -> None:
    memory.put("repo.json", text)
    for call in (Repository.open, lambda n, s: Repository.open_or_create(n, s, now=MOMENT)):
        with pytest.raises(ManifestInvalid, match=r"repo\.json in memory://shelf is damaged"):
            call("local", memory)


def test_a_repository_of_another_format_is_refused(memory: MemoryStore) -> None:
    memory.put("repo.json", b'{"format": 2}')
    with pytest.raises(RepositoryUnsupported, match="has format 2, and this version of pgkeep"):
        Repository.open("local", memory)


def test_a_store_that_cannot_be_read_is_not_an_empty_one(store: FaultyStore) -> None:
    store.fail("get", StoreError("the provider is down"))
    with pytest.raises(StoreError, match="the provider is down"):
        Repository.open_or_create("local", store, now=MOMENT)
    assert list(store.list("")) == []


# --- publishing -----------------------------------------------------------------------------


def test_the_manifest_comes_last_and_is_read_back(
    repository: Repository, store: FaultyStore, memory: MemoryStore
) -> None:
    made = manifest_in(store)
    store.calls.clear()
    repository.publish(made, KEY)
    path = "shop/daily/2026-01-15/20260115T060000Z-0123abcd/manifest.json"
    assert store.calls == [
        ("list", "objects/"),
        ("put", f"{path}.sig"),
        ("put", path),
        ("get", path),
    ]
    assert memory.files[path] == dump_manifest(made)
    assert repository.backups(trusted) == Listing((made,), ())


@pytest.mark.parametrize("field", ["contents", "script", "objects"])
def test_an_acknowledged_object_that_was_lost_is_found_out(
    repository: Repository, store: FaultyStore, field: str
) -> None:
    made = manifest_in(store)
    (item,) = getattr(made, field)
    store.delete(item.name.path)
    with pytest.raises(ObjectMissing):
        repository.publish(made, KEY)
    assert list(store.list("shop/")) == []


def test_a_store_that_loses_what_it_acknowledged_makes_no_backup(
    repository: Repository, store: FaultyStore
) -> None:
    store.lose("objects/*")
    made = manifest_in(store)
    with pytest.raises(ObjectMissing):
        repository.publish(made, KEY)
    assert list(store.list("shop/")) == []


def test_an_object_of_another_size_is_found_out(repository: Repository, store: FaultyStore) -> None:
    made = manifest_in(store)
    name = made.objects[0].name
    store.put(name.path, b"row")
    with pytest.raises(
        DamagedObject, match=f"object {name} in memory://shelf has 3 bytes instead of 4"
    ):
        repository.publish(made, KEY)
    assert list(store.list("shop/")) == []


def test_a_store_that_gives_back_another_manifest_is_found_out(
    repository: Repository, store: FaultyStore
) -> None:
    made = manifest_in(store)
    store.flip("*/manifest.json", bit=100)
    with pytest.raises(StoreError, match="does not give back the manifest") as caught:
        repository.publish(made, KEY)
    assert caught.value.hint == "The backup does not count. Check the disk or the provider."


def test_a_lost_manifest_is_found_out(repository: Repository, store: FaultyStore) -> None:
    made = manifest_in(store)
    store.lose("*/manifest.json")
    with pytest.raises(ObjectMissing):
        repository.publish(made, KEY)


@pytest.mark.parametrize("match", ["*.sig", "*/manifest.json"])
def test_a_failure_before_the_manifest_leaves_no_backup(
    repository: Repository, store: FaultyStore, match: str
) -> None:
    made = manifest_in(store)
    store.fail("put", StoreFull("the disk is full"), match=match)
    with pytest.raises(StoreFull):
        repository.publish(made, KEY)
    assert repository.backups(trusted) == Listing((), ())
    repository.publish(made, KEY)
    assert repository.backups(trusted) == Listing((made,), ())


# --- listing --------------------------------------------------------------------------------


def test_backups_are_listed_newest_first_whatever_their_tier(repository: Repository) -> None:
    store = repository.store
    made = [
        manifest_in(store, **a_backup(days, digits=f"{days:08x}", tier=tier, database=database))
        for days, tier, database in (
            (3, Tier.WEEKLY, "shop"),
            (1, Tier.DAILY, "shop"),
            (2, Tier.MANUAL, "bank"),
            (5, Tier.MONTHLY, "shop"),
            (4, Tier.SCHEMA, "shop"),
        )
    ]
    for one in made:
        repository.publish(one, KEY)
    found = repository.backups(trusted)
    assert [one.started.day for one in found.backups] == [20, 19, 18, 17, 16]
    assert [one.started.day for one in repository.backups(trusted, "bank").backups] == [17]
    assert repository.backups(trusted, "none") == Listing((), ())
    assert repository.databases() == ("bank", "shop")
    assert found.problems == ()


def test_numbers_that_were_given_twice_tell_nothing(repository: Repository) -> None:
    """Its host lost its state between the third and the fourth."""
    for days, sequence in ((0, 1), (1, 2), (2, 3), (3, 1)):
        one = manifest_in(
            repository.store, **a_backup(days, digits=f"{days:08x}", sequence=sequence)
        )
        repository.publish(one, KEY)
    found = repository.backups(trusted)
    assert [one.sequence for one in found.backups] == [1, 3, 2, 1]


def test_the_highest_number_is_told_whoever_signed_it(repository: Repository) -> None:
    now = MOMENT + timedelta(days=9)
    assert repository.highest_number("shop", now) == (0, "")
    made = {}
    for days, sequence in ((0, 7), (1, 10**12), (2, 3)):
        one = manifest_in(
            repository.store, **a_backup(days, digits=f"{days:08x}", sequence=sequence)
        )
        repository.publish(one, STRANGER)
        made[sequence] = sha256(dump_manifest(one)).hexdigest()
    damaged = f"shop/manual/2024-01-15/20240115T000000Z-{'f' * 8}/manifest.json"
    repository.store.put(damaged, b"{")
    assert repository.highest_number("shop", now) == (7, made[7])


def test_many_schemas_do_not_hide_the_newest_backup_with_rows(repository: Repository) -> None:
    for days, tier in ((0, Tier.MANUAL), *((days, Tier.SCHEMA) for days in range(1, 26))):
        one = manifest_in(repository.store, **a_backup(days, digits=f"{days:08x}", tier=tier))
        repository.publish(one, KEY)
    newest = repository.newest_backups(trusted, "shop", MOMENT + timedelta(days=26)).backups
    assert [one.tier for one in newest[:1]] == [Tier.SCHEMA]
    assert Tier.MANUAL in [one.tier for one in newest]


def test_a_clock_that_was_ahead_hides_nothing_that_came_after(repository: Repository) -> None:
    made = []
    for number, days in enumerate((0, *range(1000, 1012), 1, 2), start=1):
        backup = a_backup(days, digits=f"{number:08x}", sequence=number)
        made.append(manifest_in(repository.store, **backup))
        repository.publish(made[-1], KEY)
    assert repository.backups(trusted).backups == tuple(reversed(made))
    newest = repository.newest_backups(trusted, "shop", MOMENT + timedelta(days=3)).backups
    assert newest[:3] == (made[-1], made[-2], made[-3])


def test_two_hosts_are_listed_by_their_clocks(repository: Repository) -> None:
    made = []
    for days in range(6):
        host, number = ("a", 40 + days) if days % 2 else ("b", 1 + days)
        backup = a_backup(days, digits=f"{days:08x}", sequence=number, host=host)
        made.append(manifest_in(repository.store, **backup))
        repository.publish(made[-1], KEY)
    assert repository.backups(trusted).backups == tuple(reversed(made))


def test_what_is_wrong_is_reported_and_hides_no_other(
    repository: Repository, store: FaultyStore, memory: MemoryStore
) -> None:
    good = manifest_in(store)
    repository.publish(good, KEY)
    made = [manifest_in(store, **a_backup(day)) for day in range(1, 8)]
    for one in made:
        repository.publish(one, STRANGER if one is made[1] else KEY)
    unsigned, _, changed, no_signature, no_manifest, newer, unreadable = made

    memory.delete(f"{unsigned.path}.sig")
    memory.put(changed.path, memory.get(changed.path).replace(b'"rows":2', b'"rows":3'))
    memory.put(f"{no_signature.path}.sig", b"nonsense")
    memory.put(no_manifest.path, b"[]\n")
    memory.put(f"{no_manifest.path}.sig", KEY.sign(b"[]\n"))
    later = memory.get(newer.path).replace(b'"format":1', b'"format":2')
    memory.put(newer.path, later)
    memory.put(f"{newer.path}.sig", KEY.sign(later))
    store.fail("get", StoreError("the provider is down"), match=unreadable.path)

    found = repository.backups(trusted)
    assert found.backups == (good,)
    texts = {(type(problem), problem.message) for problem in found.problems}
    place = "memory://shelf"
    assert texts == {
        (NotAuthentic, f"{unsigned.path} in {place} has no signature"),
        (
            NotAuthentic,
            f"{made[1].path} in {place}: signed by another key: {STRANGER.public.fingerprint}",
        ),
        (
            NotAuthentic,
            f"{changed.path} in {place}: the bytes do not match the signature by"
            f" {KEY.public.fingerprint}",
        ),
        next(one for one in texts if no_signature.path in one[1] and "not a signature" in one[1]),
        (ManifestInvalid, f"{no_manifest.path} is not a valid record"),
        (
            RepositoryUnsupported,
            f"{newer.path} has format 2, and this version of pgkeep reads format 1",
        ),
        (StoreError, "the provider is down"),
    }


@pytest.mark.parametrize(
    "place",
    [
        f"shop/daily/2026-01-16/{ID}",
        f"shop/weekly/week_03_2026/{ID}",
        f"bank/daily/2026-01-15/{ID}",
        "shop/daily/2026-01-15/20260115T060000Z-99999999",
    ],
)
def test_a_manifest_in_another_place_is_no_backup(
    repository: Repository, memory: MemoryStore, place: str
) -> None:
    made = manifest_in(memory)
    repository.publish(made, KEY)
    for ending in ("", ".sig"):
        memory.put(f"{place}/manifest.json{ending}", memory.get(f"{made.path}{ending}"))
    found = repository.backups(trusted)
    assert found.backups == (made,)
    (problem,) = found.problems
    assert isinstance(problem, NotAuthentic)
    assert problem.message == f"{place}/manifest.json in memory://shelf is a copy of {made.path}"


def test_nobody_trusted_means_no_backup(repository: Repository) -> None:
    repository.publish(manifest_in(repository.store), KEY)

    def nobody() -> Sequence[PublicSigner]:
        raise NotAuthentic("nobody is known here whose signature counts")

    with pytest.raises(NotAuthentic, match="nobody is known here"):
        repository.backups(nobody)
    found = repository.backups(list[PublicSigner])
    assert found.backups == ()
    assert [type(problem) for problem in found.problems] == [NotAuthentic]


def test_nobody_is_asked_for_where_there_is_nothing_to_check(repository: Repository) -> None:
    def nobody() -> Sequence[PublicSigner]:
        raise AssertionError("asked for signers of nothing")

    assert repository.backups(nobody).backups == ()


# --- contents and keys ----------------------------------------------------------------------


def test_contents_are_opened_by_the_index_key_and_by_the_epoch(
    repository: Repository, store: FaultyStore
) -> None:
    key, private = new_epoch()
    index = X25519Identity.generate()
    made = publish_example(repository, Epoch(key, SealedKey(private)), KEY, index.recipient)
    found = repository.contents(made, [index])
    assert found.backup == made.backup
    assert found.tables[0].name.name == "customers"
    with pytest.raises(KeyMissing):
        repository.contents(made, [X25519Identity.generate()])
    assert repository.sealed_epoch_key(made.epoch) == SealedKey(private)


def test_the_contents_of_another_backup_are_refused(repository: Repository) -> None:
    identity = X25519Identity.generate()
    writer = StreamWriter(repository.store.put, [identity.recipient], level=1)
    writer.write(dump_contents(contents()))
    other = manifest(**a_backup(1), contents=writer.close().objects)
    with pytest.raises(NotAuthentic, match=f"belongs to backup {ID}"):
        repository.contents(other, [identity])


def test_prepare_keeps_keys_and_signers_that_are_there(
    repository: Repository, memory: MemoryStore, epoch: Epoch
) -> None:
    key, _ = new_epoch()
    repository.prepare(epoch, KEY.public)
    repository.prepare(Epoch(key, SealedKey(b"second")), STRANGER.public)
    assert memory.files[f"keys/{epoch.id}.age"] == epoch.sealed.age
    assert memory.files[f"keys/{key.id}.age"] == b"second"
    assert repository.signers_here() == (KEY.public, STRANGER.public)
    assert memory.files["keys/allowed_signers"].decode() == allowed_signers(
        [KEY.public, STRANGER.public]
    )


def test_prepare_keeps_each_form_of_an_epochs_key(
    repository: Repository, memory: MemoryStore, epoch: Epoch
) -> None:
    both = Epoch(epoch.key, SealedKey(b"for age", b"for gpg"))
    repository.prepare(both, KEY.public)
    assert repository.epochs() == (epoch.id,)
    assert repository.sealed_epoch_key(epoch.id) == both.sealed
    memory.delete(f"keys/{epoch.id}.gpg")  # as if it had ended between the two
    repository.prepare(both, KEY.public)
    assert repository.sealed_epoch_key(epoch.id) == both.sealed


def test_an_epochs_key_that_is_here_in_no_form_is_missing(repository: Repository) -> None:
    assert repository.epochs() == ()
    with pytest.raises(ObjectMissing, match=r"keys/0011223344556677\.age is missing from memory:"):
        repository.sealed_epoch_key("0011223344556677")


def test_prepare_brings_the_way_to_restore_up_to_date(
    repository: Repository, memory: MemoryStore, epoch: Epoch
) -> None:
    memory.put("RESTORE.txt", b"as an older version wrote it")
    repository.prepare(epoch, KEY.public)
    assert memory.files["RESTORE.txt"].startswith(b"HOW TO RESTORE")


def test_prepare_writes_nothing_twice(
    repository: Repository, store: FaultyStore, epoch: Epoch
) -> None:
    repository.prepare(epoch, KEY.public)
    store.calls.clear()
    repository.prepare(epoch, KEY.public)
    assert [call for call in store.calls if call[0] == "put"] == []


def test_prepare_does_not_take_a_failure_for_an_absence(
    repository: Repository, store: FaultyStore, memory: MemoryStore, epoch: Epoch
) -> None:
    repository.prepare(epoch, KEY.public)
    before = memory.files
    store.fail("get", StoreError("the provider is down"), match="keys/allowed_signers")
    with pytest.raises(StoreError, match="the provider is down"):
        repository.prepare(epoch, STRANGER.public)
    assert memory.files == before


# --- choosing -------------------------------------------------------------------------------


def listing(*manifests: Manifest, problems: tuple[PgkeepError, ...] = ()) -> Listing:
    ordered = sorted(manifests, key=lambda one: (one.started, one.backup), reverse=True)
    return Listing(tuple(ordered), problems)


FULL = manifest(**a_backup(0, digits="aaaaaaaa"))
SCHEMA = manifest(**a_backup(1, digits="bbbbbbbb", kind=Kind.SCHEMA))
DATA = manifest(**a_backup(1, digits="cccccccc", kind=Kind.DATA))


@pytest.mark.parametrize(
    ("kinds", "expected"),
    [({Kind.FULL}, FULL), ({Kind.FULL, Kind.DATA}, DATA), (set(Kind), DATA), ({"schema"}, SCHEMA)],
)
def test_the_newest_of_the_right_kind_is_chosen(kinds: set[Kind], expected: Manifest) -> None:
    assert (
        choose_backup(listing(FULL, SCHEMA, DATA), None, database="shop", kinds=kinds) == expected
    )


def test_a_backup_is_named_by_the_beginning_of_its_id() -> None:
    found = listing(FULL, SCHEMA, DATA)
    for wanted in ("20260115", FULL.backup, FULL.backup[:-1]):
        assert choose_backup(found, wanted, database="shop", kinds={Kind.DATA}) == FULL


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ("20260116", "2 backups of database 'shop' begin with '20260116'"),
        ("2026", "3 backups of database 'shop' begin with '2026'"),
        ("", "3 backups of database 'shop' begin with ''"),
        ("2025", "no backup of database 'shop' begins with '2025'"),
    ],
)
def test_an_id_that_is_not_one_backup_is_refused(wanted: str, message: str) -> None:
    with pytest.raises(BackupMissing) as caught:
        choose_backup(listing(FULL, SCHEMA, DATA), wanted, database="shop", kinds=set(Kind))
    assert caught.value.message == message
    assert caught.value.hint == "Run: pgkeep list shop"


def test_without_a_backup_the_hint_says_how_to_get_one() -> None:
    with pytest.raises(BackupMissing) as caught:
        choose_backup(listing(SCHEMA), None, database="shop", kinds={Kind.FULL, Kind.DATA})
    assert caught.value.message == "there is no data or full backup of database 'shop'"
    assert caught.value.hint == "Run: pgkeep backup shop"


@pytest.mark.parametrize("wanted", [None, "20260115T060000Z", FULL.backup])
def test_what_is_wrong_with_the_only_candidate_is_the_error(wanted: str | None) -> None:
    problem = NotAuthentic(f"{FULL.path} has no signature")
    with pytest.raises(NotAuthentic) as caught:
        choose_backup(
            listing(SCHEMA, problems=(problem,)), wanted, database="shop", kinds={Kind.FULL}
        )
    assert caught.value is problem


def test_what_is_wrong_elsewhere_does_not_matter() -> None:
    found = listing(FULL, problems=(NotAuthentic(f"{SCHEMA.path} has no signature"),))
    for wanted in (None, "20260115"):
        assert choose_backup(found, wanted, database="shop", kinds={Kind.FULL}) == FULL
    with pytest.raises(BackupMissing):
        choose_backup(found, "2025", database="shop", kinds={Kind.FULL})
