"""What was agreed on about keeping backups: less is told, and the newest record counts."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from examples import MOMENT
from pgkeep.model import Tier
from pgkeep.repository.factors import Shelf, StoredFiles, keep
from pgkeep.repository.repository import Repository
from pgkeep.repository.retention import Policy
from pgkeep.repository.terms import (
    KeptTerms,
    Terms,
    dump_terms,
    mend_terms,
    read_terms,
    shortened,
    terms_of,
)
from pgkeep.sealing import SigningKey
from pgkeep.testing import MemoryStore

KEY, STRANGER = SigningKey.generate(), SigningKey.generate()
TERMS = Terms({"daily": 30, "weekly": 90.5}, 3, 7)


def shelf(name: str = "there") -> Shelf:
    repository, _ = Repository.open_or_create(name, MemoryStore(name), now=MOMENT)
    return Shelf(name, StoredFiles(repository), (KEY.public,))


def put(place: Shelf, serial: int, minimum: int, key: SigningKey = KEY) -> str:
    kept = KeptTerms(serial, "host", MOMENT, replace(TERMS, minimum=minimum))
    name, data = dump_terms(kept, key)
    assert keep([place], {name: data}) == ()
    return name


@pytest.mark.parametrize(
    ("now", "words"),
    [
        (TERMS, ()),
        (Terms({"daily": 31, "weekly": 91, "monthly": 1}, 4, 8), ()),
        (replace(TERMS, minimum=2), ("the minimum from 3 to 2 backups",)),
        (replace(TERMS, journal_days=6.5), ("the journal from 7 to 6.5 days",)),
        (Terms({"daily": 29, "weekly": 90.4}, 3, 7),
         ("daily from 30 to 29 days", "weekly from 90.5 to 90.4 days")),
        (Terms({"daily": 30}, 3, 7), ("weekly from 90.5 to 0 days",)),
    ],
)  # fmt: skip
def test_only_less_is_told(now: Terms, words: tuple[str, ...]) -> None:
    assert shortened(TERMS, now) == words


def test_terms_are_what_the_configuration_means() -> None:
    policy = Policy({tier: timedelta(hours=36) for tier in Tier}, 4)
    terms = terms_of(policy, 7, {"id": "local"})
    assert terms.days == {tier.value: 1.5 for tier in Tier}
    assert (terms.minimum, terms.journal_days, terms.repositories) == (4, 7, {"id": "local"})


def test_the_newest_record_of_all_places_counts_and_is_given_to_the_others() -> None:
    first, second = shelf("first"), shelf("second")
    assert read_terms([first, second]) is None
    put(first, 1, 5)
    newest = put(second, 2, 6)
    put(first, 3, 1, key=STRANGER)
    found = read_terms([first, second])
    assert found is not None
    assert (found.name, found.kept.terms.minimum) == (newest, 6)
    mend_terms([first, second], found)
    again = read_terms([first])
    assert again is not None
    assert again.kept == found.kept


def test_a_record_under_a_higher_number_is_not_believed() -> None:
    place = shelf()
    old = put(place, 1, 5)
    put(place, 2, 6)
    place.files.write(f"00000009{old[8:]}", place.files.read(old))
    found = read_terms([place])
    assert found is not None
    assert found.kept.terms.minimum == 6
