"""Records of second factors: put together from all places, believed only if well signed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from examples import MOMENT
from pgkeep.errors import ConfigurationError, StoreUnavailable
from pgkeep.repository.factors import (
    FOLDER,
    Factor,
    FactorKind,
    Gathered,
    LocalFiles,
    Removal,
    Shelf,
    Spent,
    StoredFiles,
    dump,
    gather,
    hash_recovery_code,
    keep,
    mend,
    new_recovery_codes,
    normal_recovery_code,
    recovery_factor,
)
from pgkeep.repository.repository import Repository
from pgkeep.sealing import PublicSigner, SigningKey
from pgkeep.testing import FaultyStore, MemoryStore

KEY, STRANGER = SigningKey.generate(), SigningKey.generate()
PHONE = Factor("a" * 16, "phone", FactorKind.SSH, MOMENT, "host", key="ssh-ed25519 AAAA")
TOKEN = Factor("b" * 16, "token", FactorKind.SSH, MOMENT, "host", key="ssh-ed25519 AAAB")


def stored(name: str, *, named: Sequence[PublicSigner] = ()) -> Shelf:
    repository, _ = Repository.open_or_create(name, MemoryStore(name), now=MOMENT)
    return Shelf(name, StoredFiles(repository), (KEY.public,), tuple(named))


def local(tmp_path: Path) -> Shelf:
    return Shelf("local", LocalFiles(tmp_path / "factors"), (KEY.public,))


def put(shelf: Shelf, *records: Factor | Removal | Spent, key: SigningKey = KEY) -> None:
    assert keep([shelf], dict(dump(record, key) for record in records)) == ()


def names(gathered: Gathered) -> list[str]:
    return [one.name for one in gathered.factors]


def test_what_one_place_knows_counts(tmp_path: Path) -> None:
    here, there = local(tmp_path), stored("there")
    put(here, PHONE)
    put(there, TOKEN)
    gathered = gather([here, there])
    assert names(gathered) == ["phone", "token"]
    assert gathered.named("token") == gathered.named("b" * 16) == TOKEN
    assert gathered.named("nobody") is None
    mend([here, there], gathered)
    for shelf in (here, there):
        assert names(gather([shelf])) == ["phone", "token"]
    assert not any(path.stat().st_mode & 0o077 for path in (tmp_path / "factors").iterdir())


def test_a_removal_in_one_place_counts_for_all() -> None:
    first, second = stored("first"), stored("second")
    put(first, PHONE)
    put(second, PHONE, TOKEN, Removal(PHONE.id, MOMENT, "host"))
    assert names(gather([first, second])) == ["token"]


@pytest.mark.parametrize("name", ["a" * 16 + ".removed", "b" * 16 + ".enrolled"])
def test_a_record_under_another_name_is_not_believed(name: str) -> None:
    shelf = stored("there")
    put(shelf, PHONE)
    shelf.files.write(name, shelf.files.read(f"{PHONE.id}.enrolled"))
    gathered = gather([shelf])
    assert names(gathered) == ["phone"]
    assert gathered.doubtful == ((f"{name} in there",) if name.endswith("enrolled") else ())


def test_a_removal_by_a_stranger_removes_nothing() -> None:
    shelf = stored("there", named=[STRANGER.public])
    put(shelf, PHONE)
    put(shelf, Removal(PHONE.id, MOMENT, "host"), key=STRANGER)
    assert names(gather([shelf])) == ["phone"]


def test_every_bit_of_a_record_matters() -> None:
    name, data = dump(PHONE, KEY)
    for at in range(0, len(data), 5):
        shelf = stored("there")
        shelf.files.write(name, data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        gathered = gather([shelf])
        assert gathered.factors == ()
        assert gathered.doubtful == (f"{name} in there",)
        assert gathered.is_enrolled, "a factor is asked for all the same"


def test_a_place_with_the_right_record_makes_up_for_one_that_was_harmed(tmp_path: Path) -> None:
    here, there = local(tmp_path), stored("there")
    put(here, PHONE)
    there.files.write(f"{PHONE.id}.enrolled", b"harmed")
    gathered = gather([here, there])
    assert (names(gathered), gathered.doubtful) == (["phone"], ())
    mend([here, there], gathered)
    assert names(gather([there])) == ["phone"]


def test_the_record_of_another_host_is_told_apart_from_a_forged_one() -> None:
    shelf = stored("there", named=[STRANGER.public])
    put(shelf, PHONE, key=STRANGER)
    gathered = gather([shelf])
    assert gathered.foreign == (f"{PHONE.id}.enrolled in there",)
    assert not gathered.is_enrolled
    strict = gather([replace(shelf, named=())])
    assert strict.doubtful == gathered.foreign
    assert strict.is_enrolled


def test_a_place_that_is_down_is_told_and_hides_no_other(tmp_path: Path) -> None:
    here = local(tmp_path)
    put(here, PHONE)
    store = FaultyStore(MemoryStore("down"))
    repository, _ = Repository.open_or_create("down", store, now=MOMENT)
    store.fail("list", StoreUnavailable("it is down"))
    down = Shelf("down", StoredFiles(repository), (KEY.public,))
    gathered = gather([here, down])
    assert names(gathered) == ["phone"]
    assert [one.message for one in gathered.problems] == ["it is down"]
    assert "down" not in gathered.present
    mend([here, down], gathered)


def test_other_files_are_left_alone() -> None:
    shelf = stored("there")
    shelf.files.write("README", b"hello")
    shelf.files.write("00000001-abcdef01.terms", b"hello")
    gathered = gather([shelf])
    assert (gathered.factors, gathered.doubtful, gathered.foreign) == ((), (), ())


def test_a_folder_that_cannot_be_read_is_not_an_empty_one(tmp_path: Path) -> None:
    (tmp_path / "factors").mkdir()
    (tmp_path / "factors" / f"{PHONE.id}.enrolled").mkdir()
    gathered = gather([local(tmp_path)])
    assert [type(one) for one in gathered.problems] == [ConfigurationError]
    assert gathered.present == {}


# --- recovery codes -------------------------------------------------------------------------


def test_recovery_codes_are_kept_as_hashes_and_counted() -> None:
    codes = new_recovery_codes()
    factor = recovery_factor(codes, "codes", "host", MOMENT)
    assert len(set(codes)) == 10
    shelf = stored("there")
    put(shelf, factor, Spent(factor.id, 3, MOMENT, "host"))
    gathered = gather([shelf])
    assert gathered.spent == {(factor.id, 3)}
    assert gathered.codes_left(factor) == 9
    text = b"".join(shelf.files.read(name) for name in shelf.files.names()).decode(
        "ascii", "replace"
    )
    assert not any(code in text or code.replace("-", "") in text for code in codes)
    assert hash_recovery_code(factor.id, codes[0]) in factor.codes
    assert hash_recovery_code(TOKEN.id, codes[0]) not in factor.codes, "salted"


@pytest.mark.parametrize("typed", ["abcd-efgh-jkmn-pqrs", " ABCD EFGH JKMN PQRS ",
                                   "abcdefghjkmnpqrs"])  # fmt: skip
def test_a_recovery_code_may_be_typed_as_one_likes(typed: str) -> None:
    assert normal_recovery_code(typed) == "abcdefghjkmnpqrs"


@pytest.mark.parametrize("typed", ["", "123456", "abcd-efgh-jkmn-pqr", "abcd-efgh-jkmn-pqr1",
                                   "abcd-efgh-jkmn-pqrst", "аbcd-efgh-jkmn-pqrs"])  # fmt: skip
def test_what_is_no_recovery_code(typed: str) -> None:
    assert normal_recovery_code(typed) is None


def test_records_are_where_no_prune_deletes_and_no_database_is_seen() -> None:
    shelf = stored("there")
    put(shelf, PHONE)
    assert isinstance(shelf.files, StoredFiles)
    repository = shelf.files.repository
    assert [file.name for file in repository.store.list(FOLDER)] == [f"{FOLDER}{PHONE.id}.enrolled"]
    assert repository.databases() == ()
    assert repository.epochs() == ()
