"""What keeps codes from being used twice and from being guessed. One file, under a lock.

After `FREE_TRIES` wrong codes none is looked at for a while, each time for longer, until a right
one comes. A clock that was set back neither ends that earlier nor makes an old code good again: the
latest time that was seen is kept too.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pgkeep.errors import ApprovalInvalid, FactorRefused
from pgkeep.records import JsonForm
from pgkeep.repository.factors import Factor, hash_recovery_code, normal_recovery_code
from pgkeep.repository.hostkeys import write_private
from pgkeep.repository.state_folder import unusable
from pgkeep.sealing import totp

FREE_TRIES = 5
PAUSES = (
    timedelta(minutes=1),
    timedelta(minutes=5),
    timedelta(minutes=15),
    timedelta(hours=1),
    timedelta(hours=4),
    timedelta(days=1),
)
"""How long no code is looked at after the fifth wrong one, the sixth, and so on; the last for all
that follow. A day for three chances in a million."""

_CLOCK_SLACK = timedelta(minutes=2)
_LOCK_SECONDS = 30
_WHY = ": a code cannot be checked without noting that it was used"
_NEVER = -1


@dataclass(frozen=True, slots=True)
class GuardState:
    """What is remembered."""

    seen: datetime
    """The latest time at which something was looked at."""
    wrong: int = 0
    """Wrong codes since the last right one."""
    paused: datetime | None = None
    """When the last wrong one came, if none is looked at for a while after it."""
    counters: Mapping[str, int] = field(default_factory=dict)
    """The last period of each app whose code was taken; the last count of each FIDO2 device."""

    def pause(self) -> timedelta:
        """How long none is looked at after the last wrong one."""
        beyond = self.wrong - FREE_TRIES
        return PAUSES[min(beyond, len(PAUSES) - 1)] if beyond >= 0 else timedelta(0)

    def with_wrong(self, now: datetime) -> GuardState:
        """After another wrong one."""
        wrong = self.wrong + 1
        return replace(self, wrong=wrong, paused=now if wrong >= FREE_TRIES else None)


_STATE = JsonForm(GuardState)


@dataclass(frozen=True, slots=True)
class App:
    """An authenticator app whose secret could be opened."""

    factor: Factor
    secret: bytes = field(repr=False)


class Guard:
    """The file of this host. Every answer is on disk before it is given."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / "guard.json"

    def begin(self, now: datetime) -> None:
        """Begin to remember, where nothing was enrolled here before."""
        with self._locked():
            if not self._path.exists():
                self._save(GuardState(now.astimezone(UTC)))

    def look(self, now: datetime) -> GuardState:
        """How it stands."""
        return self._load(now)

    def take_code(self, code: str, apps: Sequence[App], now: datetime) -> Factor:
        """The app whose code this is, which is then used up; `FactorRefused` if it is of none."""
        with self._locked():
            state = self._begun(now)
            _refuse_old_clock(state, now)
            _refuse_paused(state, now)
            oldest = totp.counter_at(max(state.seen, now)) - totp.WINDOW - 1
            for app in apps:
                last = state.counters.get(app.factor.id, _NEVER)
                above = max(last, oldest)
                counter = totp.matching_counter(app.secret, code, now, above=above)
                if counter is not None:
                    self._save(_granted(state, now, app.factor.id, counter))
                    return app.factor
            raise self._wrong(state, now, code, apps)

    def _wrong(
        self, state: GuardState, now: datetime, code: str, apps: Sequence[App]
    ) -> FactorRefused:
        """Count it, and say so. A code that was used already is no guess: it is not counted."""
        for app in apps:
            last = state.counters.get(app.factor.id, _NEVER)
            used = totp.matching_counter(app.secret, code, now, above=_NEVER)
            if used is not None and used <= last:
                self._save(replace(state, seen=max(state.seen, now)))
                return FactorRefused(
                    "this code was used already", hint="Wait for the next one of the app."
                )
        return self._count_wrong(state, now)

    def take_recovery_code(
        self,
        code: str,
        factors: Sequence[Factor],
        spent: frozenset[tuple[str, int]],
        now: datetime,
    ) -> tuple[Factor, int]:
        """The set and the number of a recovery code; `FactorRefused` if it is of none, or used.

        Looked at even while other codes are not: nobody guesses 78 bits, and whoever makes wrong
        tries on purpose must not keep the owner out. The one who calls marks it as spent.
        """
        with self._locked():
            state = self._begun(now)
            for factor in factors:
                hashed = hash_recovery_code(factor.id, code)
                if normal_recovery_code(code) is None or hashed not in factor.codes:
                    continue
                number = factor.codes.index(hashed)
                used = f"{factor.id}-{number}"
                if (factor.id, number) in spent or used in state.counters:
                    raise FactorRefused(
                        "this recovery code was used already", hint="Each of them is good once."
                    )
                self._save(_granted(state, now, used, 1))
                return factor, number
            raise self._count_wrong(state, now)

    def take_approval(self, factor: Factor, counter: int, now: datetime) -> None:
        """Note an approval; `ApprovalInvalid` if the device's count is not higher than before."""
        with self._locked():
            state = self._begun(now)
            last = state.counters.get(factor.id, 0)
            if (counter or last) and counter <= last:
                raise ApprovalInvalid(
                    f"the device of factor {factor.name!r} counts {counter} signatures, and it had"
                    f" counted {last} before",
                    hint="Sign a new challenge. If it stays so, there is a copy of that key: remove"
                    " the factor.",
                )
            self._save(_granted(state, now, factor.id, counter))

    def _count_wrong(self, state: GuardState, now: datetime) -> FactorRefused:
        after = replace(state.with_wrong(now), seen=max(state.seen, now))
        self._save(after)
        left = FREE_TRIES - after.wrong
        if left > 0:
            more = f"{left} more, and none is looked at for a while"
        else:
            more = f"none is looked at for {int(after.pause().total_seconds() // 60)} min"
        return FactorRefused(f"this code is wrong; {more}")

    def _begun(self, now: datetime) -> GuardState:
        """As `_load`, and on disk: a pause that begins now must end some day."""
        state = self._load(now)
        if state.paused == now:
            self._save(state)
        return state

    def _load(self, now: datetime) -> GuardState:
        """What is remembered.

        A file that is gone or damaged counts as five wrong tries just now: else it would only have
        to be removed.
        """
        try:
            return _STATE.load(self._path.read_bytes())
        except OSError as exc:
            if not isinstance(exc, FileNotFoundError):
                raise unusable(self._path, exc, _WHY) from exc
        except ValueError:
            pass
        return GuardState(now, wrong=FREE_TRIES, paused=now)

    def _save(self, state: GuardState) -> None:
        try:
            write_private(self._path, _STATE.dump(state))
        except OSError as exc:
            raise unusable(self._path, exc, _WHY) from exc

    @contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
            handle = os.open(self._folder / "guard.lock", flags, 0o600)
        except OSError as exc:
            raise unusable(self._folder, exc, _WHY) from exc
        try:
            _wait_for(handle)
            yield
        finally:
            os.close(handle)


def _granted(state: GuardState, now: datetime, key: str, counter: int) -> GuardState:
    counters = {**state.counters, key: counter}
    seen = max(state.seen, now)
    return replace(state, seen=seen, wrong=0, paused=None, counters=counters)


def _refuse_old_clock(state: GuardState, now: datetime) -> None:
    if now < state.seen - _CLOCK_SLACK:
        raise FactorRefused(
            f"the clock of this host says {_shown(now)}, and it said {_shown(state.seen)} before:"
            " no code can be checked",
            hint="Set the clock right, or use a recovery code or a signature. If it was wrong"
            " before, remove guard.json in the folder factors of the state folder.",
        )


def _refuse_paused(state: GuardState, now: datetime) -> None:
    if state.paused is not None and now < (until := state.paused + state.pause()):
        raise FactorRefused(
            f"after {state.wrong} wrong codes none is looked at before {_shown(until)}",
            hint="Wait, or use a recovery code or a signature. If it was not you who tried:"
            " pgkeep ledger.",
        )


def _shown(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def _wait_for(handle: int) -> None:
    deadline = time.monotonic() + _LOCK_SECONDS
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise FactorRefused(
                    "another process has been checking a code for too long",
                    hint="End it, and try again.",
                ) from None
            time.sleep(0.05)
        else:
            return
