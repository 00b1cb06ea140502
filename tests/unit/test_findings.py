"""From facts to findings: what is wrong, how grave it is, and what to do."""

from __future__ import annotations

from dataclasses import replace
from datetime import date

import pytest

from examples import manifest
from pgkeep.doctor.configuration import address_findings, recipient_findings
from pgkeep.doctor.look import RepositoryFacts, device_of, newest_of
from pgkeep.doctor.repositories import repository_findings
from pgkeep.errors import ConfigurationError, KeyUnusable, PgkeepError, StoreUnavailable
from pgkeep.findings import Finding, Severity, gravest_first, worst
from pgkeep.model import Kind
from pgkeep.postgres.address import Address
from pgkeep.sealing import RecipientProblem
from pgkeep.stores.facts import ExpiryRule, ObjectLock, Retention, StoreFacts, Unknown

ERROR, WARNING, NOTE = Severity.ERROR, Severity.WARNING, Severity.NOTE
GOOD = StoreFacts(versioning=True, object_lock=ObjectLock("COMPLIANCE", 60), expiry=(),
                  public=False)  # fmt: skip


def facts(name: str = "s3", store: StoreFacts | None = GOOD, **changes: object) -> RepositoryFacts:
    values: dict[str, object] = {"url": f"s3://{name}", "store": store, **changes}
    return RepositoryFacts(name=name, **values)  # type: ignore[arg-type]


def findings(*all_facts: RepositoryFacts) -> list[tuple[Severity, str, str]]:
    """Of these, beside a good one elsewhere."""
    found = repository_findings([*all_facts, facts("other")])
    assert all(one.remedy for one in found if one.severity is not NOTE)
    return [(one.severity, one.about, one.what) for one in found]


def only(*all_facts: RepositoryFacts) -> tuple[Severity, str]:
    ((severity, _, what),) = findings(*all_facts)
    return severity, what


def test_two_good_copies_need_nothing() -> None:
    assert findings(facts()) == []


def test_one_that_is_down_is_as_grave_as_what_it_does_to_a_backup() -> None:
    down = facts(store=None, problem=StoreUnavailable("no connection"))
    assert only(down) == (WARNING, "no connection")
    required = facts(store=None, problem=StoreUnavailable("no connection"), required=True)
    assert only(required) == (ERROR, "no connection")
    assert repository_findings([down])[0].severity is ERROR
    schema = facts("other", kinds=(Kind.SCHEMA,))
    assert repository_findings([down, schema])[0].severity is ERROR  # nobody takes full ones


def test_copies_of_which_none_takes_rows_are_told() -> None:
    schema = [facts(name, kinds=(Kind.SCHEMA,)) for name in ("one", "other")]
    (found,) = repository_findings(schema)
    assert (found.severity, found.what) == (
        ERROR,
        "none takes full backups, so rows are kept nowhere",
    )
    assert repository_findings([schema[0], facts("third", kinds=(Kind.DATA,))]) == ()


@pytest.mark.parametrize(
    ("store", "words"),
    [
        (replace(GOOD, object_lock=ObjectLock("COMPLIANCE", 30)), "the lock lasts 30 days and"),
        (StoreFacts(), "protected for 30 days, and nothing is locked there"),
        (GOOD, ""),
    ],
)
def test_a_lock_is_to_last_longer_than_the_protection(store: StoreFacts, words: str) -> None:
    found = findings(facts(store=store, protect_days=30))
    assert [what for _, _, what in found if words not in what] == []
    assert bool(found) == bool(words)


def test_a_lock_that_is_not_known_is_told_if_it_matters() -> None:
    store = replace(GOOD, object_lock=Unknown("access denied"))
    assert [severity for severity, _, _ in findings(facts(store=store))] == [NOTE]
    found = findings(facts(store=store, protect_days=30))
    assert [severity for severity, _, _ in found] == [WARNING, NOTE]
    assert "every backup stores everything anew" in found[0][2]


@pytest.mark.parametrize(
    ("store", "severity", "words"),
    [
        (StoreFacts(versioning=False, object_lock=None), WARNING, "keeps no older versions"),
        (StoreFacts(versioning=True, object_lock=None), NOTE, "objects are not locked"),
        (StoreFacts(versioning=True, object_lock=ObjectLock()), WARNING, "nothing is locked"),
        (
            StoreFacts(versioning=True, object_lock=ObjectLock("GOVERNANCE", 30)),
            NOTE,
            "s3:BypassGovernanceRetention",
        ),
        (
            StoreFacts(versioning=True, object_lock=ObjectLock("COMPLIANCE", 30), public=True),
            WARNING,
            "strangers may read",
        ),
        (StoreFacts(public=Unknown("access denied")), NOTE, "strangers may read: access denied"),
        (StoreFacts(versioning=False, soft_delete_seconds=604800), NOTE, "for 7 days"),
        (StoreFacts(versioning=False, soft_delete_seconds=None), WARNING, "no older versions"),
        (StoreFacts(mode=0o755), WARNING, "mode 755"),
        (StoreFacts(free_bytes=10_000_000), WARNING, "only 0.01 GB are free"),
    ],
)
def test_what_a_store_lacks_is_told(store: StoreFacts, severity: Severity, words: str) -> None:
    found, what = only(facts(store=store))
    assert found is severity
    assert words in what


def test_a_retention_of_google_is_protection_enough() -> None:
    assert findings(facts(store=StoreFacts(versioning=False, retention=Retention(9, True)))) == []


def test_rules_that_remove_backups_are_told() -> None:
    rules = (ExpiryRule("all", "", 30), ExpiryRule("old", "shop/", None, date(2030, 1, 1)))
    found = findings(facts(store=replace(GOOD, expiry=rules)))
    assert [severity for severity, _, _ in found] == [WARNING, WARNING]
    assert found[0][2].startswith("the lifecycle rule 'all' removes everything after 30 days")
    assert "removes all that begins with 'shop/' on 2030-01-01" in found[1][2]


def test_supabase_storage_is_not_blamed_for_what_it_cannot_do() -> None:
    endpoint = "https://abcdefghijklmnopqrst.storage.supabase.co/storage/v1/s3"
    store = StoreFacts(versioning=False, object_lock=None)
    severity, what = only(facts(store=store, endpoint=endpoint))
    assert severity is NOTE
    assert "no versions and no locks" in what


def test_room_for_another_whole_backup_is_wanted() -> None:
    newest = manifest()
    needed = newest.totals.stored_bytes
    assert findings(facts(store=StoreFacts(free_bytes=max(needed, 10**9)), newest=newest)) == []


def test_what_is_behind_or_not_there_yet_is_told() -> None:
    assert only(facts(missing=1)) == (WARNING, "it lacks 1 backup that another has")
    assert only(facts(missing=2)) == (WARNING, "it lacks 2 backups that another has")
    assert only(facts(is_new=True))[0] is NOTE
    assert only(facts(listing_problems=(KeyUnusable("odd"),))) == (WARNING, "odd")


def test_copies_that_are_lost_together_are_told() -> None:
    local = facts("a", StoreFacts(), url="file:///a", is_local=True, device=1)
    beside = facts("b", StoreFacts(), url="file:///b", is_local=True, device=1)
    elsewhere = facts("c", StoreFacts(), url="file:///c", is_local=True, device=2)
    (one,) = repository_findings([local])
    assert (one.severity, one.what.partition(":")[0]) == (
        WARNING, "every copy is on this machine",
    )  # fmt: skip
    (one,) = repository_findings([facts()])
    assert (one.severity, one.what.partition(",")[0]) == (WARNING, "there is one copy only")
    assert only(local, beside)[1] == "'a' and 'b' are on the same disk, and are lost together"
    assert findings(local, elsewhere) == []


def test_recipients_are_looked_at() -> None:
    assert [one.severity for one in recipient_findings((), [])] == [ERROR]
    assert [one.severity for one in recipient_findings(("age1x",), [])] == [NOTE]
    soon = RecipientProblem("gpg:ann", "it expires", "Renew it.")
    gone = RecipientProblem("gpg:bob", "it is gone", "Find it.", KeyUnusable("it is gone"))
    found = list(recipient_findings(("gpg:ann", "gpg:bob"), [soon, gone]))
    assert [(one.severity, one.about) for one in found] == [
        (WARNING, "recipient gpg:ann"), (ERROR, "recipient gpg:bob"),
    ]  # fmt: skip


def test_addresses_are_looked_at() -> None:
    ref = "abcdefghijklmnopqrst"
    addresses: dict[str, Address | PgkeepError] = {
        "shop": Address.parse(f"postgresql://postgres:x@db.{ref}.supabase.co/postgres"),
        "lost": ConfigurationError("it is not set", hint="Set it."),
    }
    found = list(address_findings(addresses, {"far": f"https://{ref}.supabase.co/storage/v1/s3"}))
    assert [(one.severity, one.about) for one in found] == [
        (ERROR, "database lost"), (WARNING, "repository far"),
    ]  # fmt: skip


def test_the_gravest_comes_first() -> None:
    some = [Finding(severity, severity.value, "x") for severity in (NOTE, ERROR, WARNING, NOTE)]
    assert [one.severity for one in gravest_first(some)] == [ERROR, WARNING, NOTE, NOTE]
    assert worst(some) is ERROR
    assert worst([]) is None


def test_the_newest_with_data_is_the_measure() -> None:
    full, schema = manifest(), manifest(kind=Kind.SCHEMA)
    assert newest_of([schema, full]) is full
    assert newest_of([schema]) is schema
    assert newest_of([]) is None


def test_the_disk_of_a_folder_that_is_not_there_is_that_of_the_one_above(tmp_path: object) -> None:
    assert device_of(f"file://{tmp_path}/not/there") == device_of(f"file://{tmp_path}")
    assert device_of("s3://bucket") is None
