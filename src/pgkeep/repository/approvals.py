"""Challenges: texts that name one action exactly, for an operator to sign with an SSH key.

    <nonce>.json        what is asked, as it was written down here
    <nonce>.challenge   the text of it, to be signed
    <nonce>.used        the first, once it was approved and used

A signature counts if its text is one of ours, of the very action that is to be done, not used and
not too old.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path

from pgkeep.errors import ApprovalInvalid, ConfigurationError, NotAuthentic
from pgkeep.model import FORMAT
from pgkeep.records import JsonForm
from pgkeep.repository.factors import Factor
from pgkeep.repository.hostkeys import write_private
from pgkeep.sealing.operators import OperatorKey, signing_key_of, verify_approval

LASTS = timedelta(minutes=30)
_AGAIN = timedelta(minutes=10)
"""A challenge that is good for at least so long is shown again; else there is a new one."""
_KEPT = timedelta(days=7)
"""So long it is remembered what was used or is too old: to say so."""


@dataclass(frozen=True, slots=True)
class Action:
    """What is to be done, with everything that matters about it."""

    name: str
    """`export`, `restore` and so on."""
    database: str = ""
    about: tuple[tuple[str, str], ...] = ()
    """Names and values: the backup, the target, the options."""

    @property
    def lines(self) -> str:
        """One for each thing, which nothing in a value can end or disguise."""
        pairs = (("action", self.name), ("database", self.database), *self.about)
        return "".join(f"{name}: {json.dumps(value)}\n" for name, value in pairs if value)

    @property
    def digest(self) -> str:
        """Two actions with the same one are the same."""
        return sha256(self.lines.encode()).hexdigest()

    def __str__(self) -> str:
        return f"{self.name} of {self.database!r}" if self.database else self.name


@dataclass(frozen=True, slots=True)
class Challenge:
    """A question to the operators."""

    action: Action
    host: str
    nonce: str
    issued: datetime
    expires: datetime
    format: int = FORMAT

    @property
    def text(self) -> str:
        """What is signed."""
        return (
            f"pgkeep approval {self.format}\n{self.action.lines}"
            f"host: {json.dumps(self.host)}\nnonce: {self.nonce}\n"
            f"issued: {self.issued.isoformat()}\nexpires: {self.expires.isoformat()}\n"
        )


@dataclass(frozen=True, slots=True)
class Approved:
    """A signature that counts, before it is used."""

    challenge: Challenge
    factor: Factor
    counter: int


_CHALLENGE = JsonForm(Challenge)


class Challenges:
    """Those of this host, in a folder of its state folder (0600)."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def path(self, challenge: Challenge) -> Path:
        """The file to sign."""
        return self._folder / f"{challenge.nonce}.challenge"

    def open(self, now: datetime) -> tuple[Challenge, ...]:
        """Those that may still be approved, oldest first."""
        found = (one for one in self._all("json") if one.issued <= now < one.expires)
        return tuple(sorted(found, key=lambda one: (one.issued, one.nonce)))

    def ask(self, action: Action, host: str, now: datetime) -> Challenge:
        """A challenge for an action: the one that is open already, or a new one."""
        for challenge in self.open(now):
            if challenge.action == action and challenge.expires - now >= _AGAIN:
                return challenge
        self._forget_old(now)
        begun = now.astimezone(UTC).replace(microsecond=0)
        made = Challenge(action, host, secrets.token_hex(16), begun, begun + LASTS)
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_private(self.path(made), made.text.encode())
            write_private(self._file(made, "json"), _CHALLENGE.dump(made))
        except OSError as exc:
            raise self._unusable(exc) from exc
        return made

    def check(
        self, action: Action, signature: bytes, factors: Sequence[Factor], now: datetime
    ) -> Approved:
        """What the signature approves; `ApprovalInvalid`, which says why, if not this action."""
        factor = _signer(signature, factors)
        key = OperatorKey.parse(factor.key, must_verify=factor.must_verify)
        refusals: list[NotAuthentic] = []
        for challenge, is_used in self._newest_first():
            try:
                signed = verify_approval(challenge.text.encode(), signature, key)
            except NotAuthentic as exc:
                refusals.append(exc)
                continue
            _refuse_unless_good(challenge, action, now, is_used=is_used)
            return Approved(challenge, factor, signed.counter)
        raise _approves_nothing(key, refusals)

    def use(self, approved: Approved) -> None:
        """Use it up. Of several processes one succeeds."""
        challenge = approved.challenge
        try:
            self._file(challenge, "json").rename(self._file(challenge, "used"))
        except FileNotFoundError as exc:
            raise _used(challenge) from exc
        except OSError as exc:
            raise self._unusable(exc) from exc
        with suppress(OSError):
            self.path(challenge).unlink(missing_ok=True)

    def _newest_first(self) -> Iterator[tuple[Challenge, bool]]:
        found = [(one, False) for one in self._all("json")]
        found += [(one, True) for one in self._all("used")]
        yield from sorted(found, key=lambda pair: pair[0].issued, reverse=True)

    def _all(self, ending: str) -> Iterator[Challenge]:
        for path in sorted(self._folder.glob(f"*.{ending}")):
            with suppress(OSError, ValueError):  # another process has used it, or it is damaged
                challenge = _CHALLENGE.load(path.read_bytes())
                if challenge.nonce == path.stem:
                    yield challenge

    def _forget_old(self, now: datetime) -> None:
        for ending in ("json", "used"):
            for challenge in self._all(ending):
                if now - challenge.expires > _KEPT:
                    for left in self._folder.glob(f"{challenge.nonce}.*"):  # signatures too
                        with suppress(OSError):
                            left.unlink(missing_ok=True)

    def _file(self, challenge: Challenge, ending: str) -> Path:
        return self._folder / f"{challenge.nonce}.{ending}"

    def _unusable(self, exc: OSError) -> ConfigurationError:
        return ConfigurationError(
            f"cannot write to {str(self._folder)!r}: {(exc.strerror or str(exc)).lower()}",
            hint="Run pgkeep as the user who owns it, on a disk with room.",
        )


def _signer(signature: bytes, factors: Sequence[Factor]) -> Factor:
    try:
        fingerprint = signing_key_of(signature)
    except NotAuthentic as exc:
        raise ApprovalInvalid(exc.message) from exc
    for factor in factors:
        if OperatorKey.parse(factor.key).fingerprint == fingerprint:
            return factor
    raise ApprovalInvalid(
        f"the approval is signed by {fingerprint}, which is not enrolled",
        hint="Sign with a key that is: pgkeep factor list.",
    )


def _approves_nothing(key: OperatorKey, refusals: Sequence[NotAuthentic]) -> ApprovalInvalid:
    """Another purpose, or a device that nobody touched, tells more than that the text differs."""
    telling = [one for one in refusals if not one.message.endswith("is not of this text")]
    why = telling[0].message if telling else "its text is no challenge of this host"
    hint = telling[0].hint if telling else ""
    return ApprovalInvalid(f"the signature by {key.fingerprint} approves nothing: {why}", hint=hint)


def _refuse_unless_good(
    challenge: Challenge, action: Action, now: datetime, *, is_used: bool
) -> None:
    if is_used:
        raise _used(challenge)
    if challenge.action.digest != action.digest:
        raise ApprovalInvalid(
            f"the approval is for another action: {_differences(challenge.action, action)}"
        )
    if not challenge.issued <= now < challenge.expires:
        raise ApprovalInvalid(
            f"the approval was good until {challenge.expires:%Y-%m-%d %H:%M:%S} UTC"
        )


def _used(challenge: Challenge) -> ApprovalInvalid:
    return ApprovalInvalid(f"the approval {challenge.nonce} was used already")


def _differences(approved: Action, wanted: Action) -> str:
    """What is not the same, in words."""
    first = dict((("action", approved.name), ("database", approved.database), *approved.about))
    second = dict((("action", wanted.name), ("database", wanted.database), *wanted.about))
    names = [name for name in {**first, **second} if first.get(name) != second.get(name)]
    return "; ".join(
        f"{name} {first.get(name, '')!r}, not {second.get(name, '')!r}" for name in names
    )
