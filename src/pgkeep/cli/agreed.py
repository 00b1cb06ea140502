"""Keeping less than was agreed on: shorter retention, or a repository that is configured no more.

Where a second factor is enrolled, what holds is on record, signed, here and in every repository;
less than that needs the factor, more does not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from pgkeep.cli.approving import action, ask_for_factor
from pgkeep.cli.context import Context
from pgkeep.cli.enrolled import Enrolled, host_name, is_enrolled_here, look_up
from pgkeep.repository.factors import keep
from pgkeep.repository.known import place_id
from pgkeep.repository.repository import Repository
from pgkeep.repository.terms import (
    KeptTerms,
    Terms,
    dump_terms,
    mend_terms,
    read_terms,
    shortened,
    terms_of,
)


def refuse_shorter_retention(context: Context, repositories: Sequence[Repository]) -> None:
    """Before a prune: keeping less than the last time needs a second factor, if one is enrolled.

    So does a repository that is configured no more. Afterwards what is configured is what holds.
    """
    enrolled = look_up(context, repositories)
    if not enrolled.gathered.is_enrolled:
        return
    found = read_terms(enrolled.shelves)
    before = found.kept if found else None
    now = current_terms(context)
    less = shortened(before.terms, now) if before else ()
    removed = {} if context.repository_urls else _removed(context, before)
    if less or removed:
        names = tuple(sorted(removed.values()))
        ask_for_factor(enrolled, action("prune", shortens=less, without_repositories=names))
        for place in removed:
            context.known_repositories.forget_place(place)
    if before is None or before.terms != now:
        keep_terms(enrolled, before)


def tend_to_factors(context: Context) -> None:
    """Tell of repositories that are configured no more, and give the others what they lack.

    Only where a second factor is enrolled here. What this host has written to must not vanish from
    its configuration unseen; and a repository that is new, or was down, has no records yet.
    """
    if context.repository_urls or not is_enrolled_here(context):
        return
    for name in sorted(_removed(context, None).values()):
        context.warn(
            f"repository {name!r} is configured no more: put it back, or say that it is meant:"
            f" pgkeep forget {name}"
        )
        context.needs_attention = True
    enrolled = look_up(context)
    enrolled.mend()
    if (terms := read_terms(enrolled.shelves)) is not None:
        mend_terms(enrolled.shelves, terms)


def current_terms(context: Context) -> Terms:
    """What the configuration says."""
    return terms_of(context.retention(), context.config.capture.keep_days, _configured(context))


def keep_terms(enrolled: Enrolled, before: KeptTerms | None) -> None:
    """What is configured now is what holds from here on."""
    _keep(enrolled, current_terms(enrolled.context), before)


def keep_repositories(context: Context) -> None:
    """As `keep_terms`, of the repositories alone: how long backups are kept stays agreed on."""
    enrolled = look_up(context)
    found = read_terms(enrolled.shelves)
    if enrolled.gathered.is_enrolled and found is not None:
        terms = replace(found.kept.terms, repositories=_configured(context))
        _keep(enrolled, terms, found.kept)


def _keep(enrolled: Enrolled, terms: Terms, before: KeptTerms | None) -> None:
    context = enrolled.context
    serial = before.serial + 1 if before else 1
    kept = KeptTerms(serial, host_name(), context.now(), terms)
    name, data = dump_terms(kept, context.keys.signing_key())
    first, *others = enrolled.shelves
    if problems := keep([first], {name: data}):
        raise problems[0]
    keep(others, {name: data})  # a key that only deletes cannot: the record here holds


def removed_places(context: Context) -> Mapping[str, str]:
    """Repositories that this host has written to and that are configured no more."""
    return _removed(context, None)


def _configured(context: Context) -> dict[str, str]:
    places = context.config.repositories
    return {place_id(context.where(name, place)): name for name, place in places.items()}


def _removed(context: Context, before: KeptTerms | None) -> dict[str, str]:
    """By what this host remembers, and by what the repositories do of this host."""
    known = context.known_repositories.all()
    if before is not None and before.host == host_name():
        known = {**before.terms.repositories, **known}
    configured = _configured(context)
    return {place: name for place, name in known.items() if place not in configured}
