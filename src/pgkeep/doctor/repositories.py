"""What is wrong with repositories, from facts alone. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import timedelta
from itertools import combinations

from pgkeep.doctor.look import RepositoryFacts
from pgkeep.findings import Finding, Severity
from pgkeep.platforms.projects import project_of_storage
from pgkeep.repository.locks import lock_term
from pgkeep.stores.facts import ELSEWHERE, ExpiryRule, StoreFacts, Unknown

_ROOM_BYTES = 1_000_000_000
"""Less than this is little for any backup."""
_LEARNED = {
    "versioning": "whether the bucket keeps older versions",
    "object_lock": "whether objects are locked",
    "expiry": "whether a lifecycle rule removes backups",
    "public": "whether strangers may read",
}


def repository_findings(all_facts: Sequence[RepositoryFacts]) -> tuple[Finding, ...]:
    """What is wrong with each, and with all of them together."""
    each = [finding for facts in all_facts for finding in _of_one(facts, all_facts)]
    return (*each, *_of_all(all_facts))


# --- one repository -------------------------------------------------------------------------


def _of_one(facts: RepositoryFacts, others: Sequence[RepositoryFacts]) -> Iterator[Finding]:
    if facts.problem is not None:
        yield _unusable(facts, others)
    for problem in facts.listing_problems:
        yield _warning(facts, problem.message, problem.hint)
    if facts.missing:
        backups = "1 backup" if facts.missing == 1 else f"{facts.missing} backups"
        yield _warning(facts, f"it lacks {backups} that another has", "Run: pgkeep sync")
    if facts.is_new:
        yield _note(facts, f"nothing is at {facts.url} yet: the first backup makes a repository")
    if facts.store is not None:
        yield from _of_store(facts, facts.store)


def _unusable(facts: RepositoryFacts, others: Sequence[RepositoryFacts]) -> Finding:
    """An error if a backup would fail of it: if it is required, or all that take a kind fail."""
    assert facts.problem is not None
    fails = facts.required or any(
        all(one.problem is not None for one in others if kind in one.kinds) for kind in facts.kinds
    )
    severity = Severity.ERROR if fails else Severity.WARNING
    return Finding(severity, facts.about, facts.problem.message, facts.problem.hint)


def _of_store(facts: RepositoryFacts, store: StoreFacts) -> Iterator[Finding]:
    yield from _of_versions(facts, store)
    yield from _of_lock(facts, store)
    yield from _of_protection(facts, store)
    if not isinstance(store.expiry, Unknown):
        for rule in store.expiry:
            yield _of_rule(facts, rule)
    if store.public is True:
        yield _warning(
            facts,
            "strangers may read or write it",
            "Block all public access to the bucket, and take back what its policy and its access"
            " lists grant to everybody.",
        )
    yield from _of_disk(facts, store)
    for name, what in _LEARNED.items():
        value = getattr(store, name)
        if isinstance(value, Unknown) and value is not ELSEWHERE:
            yield _note(facts, f"it is not known {what}: {value.reason}")


def _of_versions(facts: RepositoryFacts, store: StoreFacts) -> Iterator[Finding]:
    if store.versioning is not False or store.retention not in (None, ELSEWHERE):
        return
    if project_of_storage(facts.endpoint) is not None:
        yield _note(
            facts,
            "Supabase Storage has no versions and no locks: whoever has a key of it can delete"
            " every backup there",
            "Keep another copy where backups can be locked.",
        )
    elif isinstance(store.soft_delete_seconds, int):
        days = store.soft_delete_seconds / 86400
        yield _note(facts, f"what is deleted or overwritten can be brought back for {days:g} days")
    else:
        yield _warning(
            facts,
            "the bucket keeps no older versions: what is deleted or overwritten is gone",
            "Turn versioning on (docs/storage.md has the command).",
        )


def _of_lock(facts: RepositoryFacts, store: StoreFacts) -> Iterator[Finding]:
    lock = store.object_lock
    if isinstance(lock, Unknown):
        return
    if lock is None:
        if store.versioning is True:
            yield _note(
                facts,
                "objects are not locked: whoever may delete versions can delete every backup",
                "Turn Object Lock on, with a default retention (docs/storage.md).",
            )
    elif not lock.days:
        yield _warning(
            facts,
            "Object Lock is on without a default retention, so nothing is locked",
            "Set a default retention (docs/storage.md has the command).",
        )
    elif lock.mode == "GOVERNANCE":
        yield _note(
            facts,
            "the lock is of the mode GOVERNANCE: whoever has s3:BypassGovernanceRetention can"
            " remove it",
            "COMPLIANCE is a lock that nobody can remove.",
        )


def _of_protection(facts: RepositoryFacts, store: StoreFacts) -> Iterator[Finding]:
    """Whether the lock is longer than backups are to be protected."""
    if facts.protect_days is None:
        return
    wanted = timedelta(days=facts.protect_days)
    term = lock_term(store, wanted)
    if term is None:
        yield _warning(
            facts,
            f"backups are to be protected for {facts.protect_days:g} days, and nothing is locked"
            " there",
            "Lock what is written to the bucket for longer than that (docs/storage.md).",
        )
    elif not term.lasts:
        yield _warning(
            facts,
            "the lock of what is written is not known, so every backup stores everything anew",
            "Give the key the right s3:GetBucketObjectLockConfiguration (or storage.buckets.get),"
            " or take protect_days away.",
        )
    elif term.lasts <= wanted:
        yield _warning(
            facts,
            f"the lock lasts {term.lasts.days} days and backups are to be protected for"
            f" {facts.protect_days:g}, so every backup stores everything anew",
            "Let the lock last longer: backups use objects again for the difference of the two.",
        )


def _of_rule(facts: RepositoryFacts, rule: ExpiryRule) -> Finding:
    when = f"after {rule.days} days" if rule.days is not None else "at some time"
    if rule.on is not None:
        when = f"on {rule.on}"
    which = f"all that begins with {rule.prefix!r}" if rule.prefix else "everything"
    return _warning(
        facts,
        f"the lifecycle rule {rule.name!r} removes {which} {when}, in use or not: newer backups use"
        " objects of older ones",
        "Remove the rule: pgkeep prune deletes what is of no use any more. A rule for older"
        " versions alone does no harm.",
    )


def _of_disk(facts: RepositoryFacts, store: StoreFacts) -> Iterator[Finding]:
    if isinstance(store.mode, int) and store.mode & 0o077 and not facts.is_new:
        yield _warning(
            facts,
            f"others may enter its folder (mode {store.mode:o})",
            f"Run: chmod 700 {facts.url.removeprefix('file://')}",
        )
    if isinstance(store.free_bytes, int):
        needed = facts.newest.totals.stored_bytes if facts.newest else 0
        if store.free_bytes < max(needed, _ROOM_BYTES):
            yield _warning(
                facts,
                f"only {store.free_bytes / 1e9:.2f} GB are free there, too little for another"
                " whole backup",
                "Free some space, or use a larger disk.",
            )


# --- all of them together -------------------------------------------------------------------


def _of_all(all_facts: Sequence[RepositoryFacts]) -> Iterator[Finding]:
    about = "repositories"
    if not any(kind.has_data for facts in all_facts for kind in facts.kinds):
        yield Finding(
            Severity.ERROR,
            about,
            "none takes full backups, so rows are kept nowhere",
            'Add "full" to the kinds of a repository.',
        )
    if all(facts.is_local for facts in all_facts):
        yield Finding(
            Severity.WARNING,
            about,
            "every copy is on this machine: what destroys it takes the backups along",
            "Add a repository elsewhere: s3://bucket/folder or gs://bucket/folder.",
        )
    elif len(all_facts) == 1:
        yield Finding(
            Severity.WARNING,
            about,
            f"there is one copy only, {all_facts[0].name!r}: what is damaged there cannot be put"
            " right from another",
            "Add a second repository, best at another provider.",
        )
    for one, other in combinations([item for item in all_facts if item.device is not None], 2):
        if one.device == other.device:
            yield Finding(
                Severity.WARNING,
                about,
                f"{one.name!r} and {other.name!r} are on the same disk, and are lost together",
                "Put one of them on a disk of its own.",
            )


def _warning(facts: RepositoryFacts, what: str, remedy: str) -> Finding:
    return Finding(Severity.WARNING, facts.about, what, remedy)


def _note(facts: RepositoryFacts, what: str, remedy: str = "") -> Finding:
    return Finding(Severity.NOTE, facts.about, what, remedy)
