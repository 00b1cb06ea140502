"""Cron expressions in the forms that other schedulers read. Pure.

All are written as lists of numbers, which mean the same everywhere; what a scheduler cannot say,
such as the first Sunday of a month for cron, becomes a wider time and a test of the date.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from cronsim import CronSim

from pgkeep.errors import UsageError

_WEEKDAYS = ("Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat")


@dataclass(frozen=True, slots=True)
class Calendar:
    """A cron expression as sets of numbers; None stands for every one."""

    minutes: tuple[int, ...] | None
    hours: tuple[int, ...] | None
    days: tuple[int, ...] | None
    months: tuple[int, ...] | None
    weekdays: tuple[int, ...] | None
    """0 is Sunday."""
    nth: int | None = None
    """Which of its kind in the month the weekday is: 1 for the first."""
    needs_both: bool = True
    """Whether day of the month and weekday must both fit, or one of them."""

    @classmethod
    def parse(cls, text: str) -> Calendar:
        """`UsageError` for the few things that only the keeper itself understands (`L`)."""
        found = CronSim(text, datetime(2026, 1, 1, tzinfo=UTC))
        if min(found.days) < 0:
            raise _cannot(text)
        weekdays, nth = _split_nth(text, found.weekdays)
        return cls(
            _some(found.minutes, 60),
            _some(found.hours, 24),
            _some(found.days, 31),
            _some(found.months, 12),
            None if len(weekdays) == 7 else tuple(sorted(weekdays)),
            nth,
            found.day_and,
        )

    def systemd(self, zone: str) -> tuple[str, ...]:
        """As values of OnCalendar=: systemd wants weekday and date both, so "or" takes two."""
        days = self.days
        if self.nth is not None:
            if days is not None:
                raise _cannot("a weekday by number beside days of the month")
            days = tuple(range(self.nth * 7 - 6, min(self.nth * 7, 31) + 1))
        if self.needs_both or days is None or self.weekdays is None:
            return (self._on(days, self.weekdays, zone),)
        return self._on(days, None, zone), self._on(None, self.weekdays, zone)

    def _on(self, days: tuple[int, ...] | None, weekdays: tuple[int, ...] | None, zone: str) -> str:
        names = "" if weekdays is None else ",".join(_WEEKDAYS[one] for one in weekdays) + " "
        date = f"*-{_padded(self.months)}-{_padded(days)}"
        return f"{names}{date} {_padded(self.hours)}:{_padded(self.minutes)}:00 {zone}"

    def cron(self) -> tuple[str, str]:
        """Five fields, and a shell test without which they would be too wide (or nothing)."""
        if self.needs_both and self.days is not None and self.weekdays is not None:
            raise _cannot("days of the month that must also be certain weekdays")
        test = ""
        if self.nth is not None:
            first, last = self.nth * 7 - 6, self.nth * 7
            test = f"d=$(date +%-d); [ $d -ge {first} ] && [ $d -le {last} ]"
        fields = (self.minutes, self.hours, self.days, self.months, self.weekdays)
        return " ".join("*" if one is None else _joined(one) for one in fields), test


def _split_nth(text: str, found: Iterable[int | tuple[int, int]]) -> tuple[set[int], int | None]:
    plain = {one % 7 for one in found if isinstance(one, int)}
    tuples = [one for one in found if isinstance(one, tuple)]
    if not tuples:
        return plain, None
    numbers = {nth for _, nth in tuples}
    if plain or len(numbers) > 1 or min(numbers) < 1:
        raise _cannot(text)
    return {day % 7 for day, _ in tuples}, numbers.pop()


def _some(found: set[int], all_of_them: int) -> tuple[int, ...] | None:
    return None if len(found) == all_of_them else tuple(sorted(found))


def _joined(numbers: tuple[int, ...]) -> str:
    return ",".join(map(str, numbers))


def _padded(numbers: tuple[int, ...] | None) -> str:
    return "*" if numbers is None else ",".join(f"{one:02}" for one in numbers)


def _cannot(what: str) -> UsageError:
    return UsageError(
        f"{what!r} cannot be said to other schedulers",
        hint="Choose a simpler expression, or use pgkeep run.",
    )
