"""Everybody who can open backups, whatever kind of key they have."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from pgkeep.errors import PgkeepError
from pgkeep.sealing.gpg import PREFIX, GpgKey, Keyring
from pgkeep.sealing.keys import Recipient, parse_recipient, seal_to

EXPIRES_SOON = timedelta(days=14)


@dataclass(frozen=True, slots=True)
class SealedKey:
    """An epoch's private half, sealed: in age's form, in OpenPGP's, or in both."""

    age: bytes | None = None
    gpg: bytes | None = None

    @property
    def files(self) -> dict[str, bytes]:
        """What is there, by the ending of a file's name."""
        both = {"age": self.age, "gpg": self.gpg}
        return {ending: data for ending, data in both.items() if data is not None}


@dataclass(frozen=True, slots=True)
class Recipients:
    """Those to whom an epoch's private half is sealed; each of them opens it alone."""

    age: tuple[Recipient, ...]
    gpg: tuple[GpgKey, ...]
    keyring: Keyring

    @classmethod
    def find(cls, texts: Iterable[str], gpg_home: Path | None = None) -> Recipients:
        """The keys behind `age1...`, `ssh-... AAAA...` and `gpg:NAME`.

        The first that cannot be sealed to is an error: `KeyUnusable`, or that of a missing gpg.
        """
        keyring = Keyring(gpg_home)
        age: list[Recipient] = []
        gpg: dict[str, GpgKey] = {}
        for text in map(str.strip, texts):
            if text.startswith(PREFIX):
                key = keyring.find(text.removeprefix(PREFIX).strip())
                gpg[str(key)] = key
            else:
                age.append(parse_recipient(text))
        return cls(tuple(age), tuple(gpg.values()), keyring)

    @property
    def names(self) -> tuple[str, ...]:
        """What they are, exactly: keys and fingerprints rather than names of keys."""
        return tuple(sorted(str(one) for one in (*self.age, *self.gpg)))

    def seal(self, plaintext: bytes) -> SealedKey:
        """What each of them opens."""
        return SealedKey(
            seal_to(self.age, plaintext) if self.age else None,
            self.keyring.seal(self.gpg, plaintext) if self.gpg else None,
        )


@dataclass(frozen=True, slots=True)
class RecipientProblem:
    """What is wrong with a recipient, and what to do. An `error` stops a backup."""

    recipient: str
    message: str
    hint: str
    error: PgkeepError | None = None


def check_recipients(
    recipients: Sequence[str], gpg_home: Path | None = None, *, now: datetime
) -> list[RecipientProblem]:
    """Those that cannot be sealed to, or soon cannot be. Asks gpg if one is a gpg key."""
    return [problem for text in recipients for problem in _problems(text, gpg_home, now)]


def _problems(text: str, gpg_home: Path | None, now: datetime) -> Iterator[RecipientProblem]:
    try:
        found = Recipients.find([text], gpg_home)
    except PgkeepError as exc:
        yield RecipientProblem(text, exc.message, exc.hint, exc)
        return
    for key in found.gpg:
        if key.expires is not None and key.expires - now < EXPIRES_SOON:
            yield RecipientProblem(
                text,
                f"gpg key {key.name!r} expires on {key.expires:%Y-%m-%d}, and no backup can begin"
                " after that",
                f"Have it renewed (gpg --quick-set-expire {key.fingerprint} 1y, and once more with"
                " '*' for its subkeys), and import it again.",
            )
