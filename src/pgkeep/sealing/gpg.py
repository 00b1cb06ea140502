"""Keys in a keyring of gpg: which one a name means, sealing to it, opening with it.

All of it is the gpg program's work, and its agent keeps the secrets. Arguments name keys and
nothing else: what is sealed, what is opened and any passphrase go through pipes.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from pgkeep.errors import (
    ConfigurationError,
    DamagedObject,
    KeyMissing,
    KeyUnusable,
    PgkeepError,
    ProgramMissing,
    RecipientUnusable,
)

PREFIX = "gpg:"

_SECONDS = 60
_SECONDS_FOR_A_PERSON = 600
"""How long gpg may wait for somebody who types a passphrase or plugs in a card."""
_LARGEST_PLAIN_BYTES = 1 << 20
_STATUS = "[GNUPG:] "
_MAIL_ADDRESS = re.compile(r"[^@\s<>=]+@[^@\s<>]+")
_REMEDY = "Import a renewed key, or name another recipient in encryption.recipients."

# Codes of libgpg-error, which gpg reports below a number for where the error comes from.
_NO_PUBLIC_KEY, _BAD_PASSPHRASE = 9, 11
_DAMAGE = {4, 10, 18, 30, 65, 16383}  # algorithm, checksum, wrong key, number, object, end of file

# What gpg, its agent and pinentry need of our environment. The rest may hold passwords, and the
# agent stays when we are gone.
_ENVIRONMENT = (
    "PATH", "HOME", "USER", "LOGNAME", "TMPDIR", "LD_LIBRARY_PATH", "GNUPGHOME", "GPG_TTY", "TERM",
    "DISPLAY", "WAYLAND_DISPLAY", "XAUTHORITY", "XDG_RUNTIME_DIR", "XDG_SESSION_TYPE",
    "DBUS_SESSION_BUS_ADDRESS", "PINENTRY_USER_DATA",
)  # fmt: skip


# --- what gpg lists -------------------------------------------------------------------------


@dataclass(slots=True)
class _Part:
    """A primary key or a subkey. `validity` and `capabilities` are gpg's letters."""

    validity: str
    created: int
    expires: int | None
    capabilities: str
    fingerprint: str = ""

    @property
    def can_encrypt(self) -> bool:
        return "e" in self.capabilities

    @property
    def flaw(self) -> str:
        """Why it may not be used; empty if it may."""
        if self.validity == "e" and self.expires is not None:
            return f"expired on {datetime.fromtimestamp(self.expires, UTC):%Y-%m-%d}"
        words = {"r": "was revoked", "e": "expired", "d": "is disabled", "i": "is invalid"}
        return words.get(self.validity, "")


@dataclass(slots=True)
class ListedKey:
    """A public key as gpg lists it: its primary key first, and users as (validity, text)."""

    parts: list[_Part]
    users: list[tuple[str, str]] = field(default_factory=list)

    @property
    def fingerprint(self) -> str:
        return self.parts[0].fingerprint

    def __str__(self) -> str:
        user = next((f" ({text})" for validity, text in self.users if validity != "r"), "")
        return f"{self.fingerprint}{user}"

    def usable_part(self) -> _Part | None:
        """The newest part that encrypts, as gpg itself would choose."""
        usable = [part for part in self.parts if part.can_encrypt and not part.flaw]
        return max(usable, key=lambda part: part.created, default=None)

    def flaw(self, name: str) -> str:
        """Why nothing may be sealed to it under this name; empty if something may."""
        primary = self.parts[0]
        if primary.flaw:
            return primary.flaw
        if "D" in primary.capabilities:
            return "is disabled"
        if _MAIL_ADDRESS.fullmatch(name) and not self._still_has(name):
            return "has given up this address: its user ID was revoked"
        if self.usable_part() is None:
            last = next((part for part in reversed(self.parts) if part.can_encrypt), None)
            return f"has an encryption key that {last.flaw}" if last else "is not for encryption"
        return ""

    def _still_has(self, address: str) -> bool:
        return any(
            validity != "r" and address.lower() in text.lower() for validity, text in self.users
        )


def parse_listing(text: str) -> list[ListedKey]:
    """The keys in what `gpg --with-colons --list-keys` prints (its doc/DETAILS)."""
    keys: list[ListedKey] = []
    for line in text.splitlines():
        fields = [*line.split(":"), *[""] * 20]
        if fields[0] == "pub":
            keys.append(ListedKey([_parse_part(fields)]))
        elif not keys:
            continue
        elif fields[0] == "sub":
            keys[-1].parts.append(_parse_part(fields))
        elif fields[0] == "fpr":
            keys[-1].parts[-1].fingerprint = fields[9]
        elif fields[0] == "uid":
            keys[-1].users.append((fields[1], fields[9]))
    return keys


def _parse_part(fields: Sequence[str]) -> _Part:
    created, expires = (int(text) if text.isdigit() else None for text in fields[5:7])
    return _Part(fields[1], created or 0, expires, fields[11])


# --- keyrings -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class GpgKey:
    """The one key that a name means: its primary key, and the part that is sealed to."""

    name: str
    fingerprint: str
    part: str
    expires: datetime | None

    def __str__(self) -> str:
        return f"{PREFIX}{self.fingerprint}/{self.part}"


@dataclass(frozen=True, slots=True)
class Keyring:
    """The keyring in a folder, or without one gpg's usual (GNUPGHOME, else ~/.gnupg)."""

    home: Path | None = None

    def __str__(self) -> str:
        return f"the keyring {str(self.home)!r}" if self.home else "gpg's own keyring"

    def find(self, name: str) -> GpgKey:
        """The one key that `name` means and that can be sealed to; otherwise `RecipientUnusable`.

        A name is what gpg takes: a fingerprint, a key ID, a part of a user ID. A mail address means
        exactly that address. Who owns a key is not asked of gpg's web of trust: what is in the
        keyring is trusted, and where that is not enough, a fingerprint is the name to use.
        """
        listed = self._list(name)
        usable = [key for key in listed if not key.flaw(name)]
        if not listed:
            raise RecipientUnusable(
                f"there is no key {name!r} in {self}", hint="Import it there: gpg --import FILE."
            )
        if not usable:
            flaws = ", and ".join(f"{key} {key.flaw(name)}" for key in listed)
            raise RecipientUnusable(f"gpg key {name!r} cannot be sealed to: {flaws}", hint=_REMEDY)
        if len(usable) > 1:
            raise RecipientUnusable(
                f"{name!r} means {len(usable)} keys in {self}: {', '.join(map(str, usable))}",
                hint=f"Name one by its fingerprint, {PREFIX}{usable[0].fingerprint} or another.",
            )
        key, part = usable[0], usable[0].usable_part()
        assert part is not None
        ends = [one.expires for one in (key.parts[0], part) if one.expires is not None]
        expires = datetime.fromtimestamp(min(ends), UTC) if ends else None
        return GpgKey(name, key.fingerprint, part.fingerprint, expires)

    def seal(self, keys: Sequence[GpgKey], plaintext: bytes) -> bytes:
        """An OpenPGP message that the secret half of each of `keys` opens alone."""
        recipients = [word for key in keys for word in ("--recipient", f"{key.part}!")]
        answer = self._run(
            "--trust-model", "always", "--no-encrypt-to", "--no-armor", "--compress-algo", "none",
            *recipients, "--encrypt", given=plaintext,
        )  # fmt: skip
        if answer.code != 0 or not answer.has("END_ENCRYPTION") or not answer.out:
            raise KeyUnusable(f"gpg cannot seal: {answer.reason}", hint=_REMEDY)
        return answer.out

    def open(self, sealed: bytes, passphrase: str | None = None) -> bytes:
        """What `seal` sealed. gpg's agent asks for a passphrase in its own way, unless it is given.

        `KeyMissing` without a secret key that fits, `KeyUnusable` if gpg may not use it (a wrong or
        no passphrase), `DamagedObject` if the message was changed.
        """
        words = ["--max-output", str(_LARGEST_PLAIN_BYTES), "--decrypt"]
        if passphrase:  # gpg takes the first line of its input for it
            words = ["--pinentry-mode", "loopback", "--passphrase-fd", "0", *words]
            sealed = os.fsencode(passphrase.partition("\n")[0]) + b"\n" + sealed
        answer = self._run(*words, given=sealed, seconds=_SECONDS_FOR_A_PERSON)
        if answer.code != 0 or not answer.has("DECRYPTION_OKAY"):
            raise _why_it_does_not_open(answer, self)
        return answer.out

    def _list(self, name: str) -> list[ListedKey]:
        if not name or not name.isprintable():
            raise RecipientUnusable(
                f"{PREFIX}{name!r} names no key", hint=f"Write {PREFIX} and a name, as for gpg."
            )
        wanted = f"<{name}>" if _MAIL_ADDRESS.fullmatch(name) else name
        # With this model gpg needs no database of trust, and writes none.
        answer = self._run("--trust-model", "always", "--with-colons", "--list-keys", "--", wanted)
        if answer.code != 0 and _NO_PUBLIC_KEY not in answer.errors("keylist.getkey"):
            raise KeyUnusable(
                f"gpg cannot look for {name!r} in {self}: {answer.reason}",
                hint="Run gpg --list-keys by hand.",
            )
        return parse_listing(answer.out.decode("utf-8", "replace"))

    def _run(self, *words: str, given: bytes = b"", seconds: int = _SECONDS) -> _Answer:
        if self.home is not None and not self.home.is_dir():
            raise ConfigurationError(
                f"there is no folder {str(self.home)!r} with a keyring of gpg",
                hint="Correct encryption.gpg_home, or --gpg-home.",
            )
        home = () if self.home is None else ("--homedir", str(self.home))
        always = ("--batch", "--no-tty", "--utf8-strings", "--status-fd", "2")
        try:
            done = subprocess.run(
                [_program(), *always, *home, *words],
                input=given, capture_output=True, timeout=seconds, env=_environment(), check=False,
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired) as exc:
            reason = str(getattr(exc, "strerror", f"no answer in {seconds} seconds")).lower()
            raise KeyUnusable(f"gpg cannot be run: {reason}", hint="Run gpg by hand.") from None
        return _Answer(done.returncode, done.stdout, done.stderr.decode("utf-8", "replace"))


@dataclass(frozen=True, slots=True)
class _Answer:
    """How gpg ended; `err` holds its lines for machines among those for people."""

    code: int
    out: bytes
    err: str

    @property
    def status(self) -> list[list[str]]:
        lines = self.err.splitlines()
        return [line.removeprefix(_STATUS).split() for line in lines if line.startswith(_STATUS)]

    def has(self, word: str) -> bool:
        return any(words[:1] == [word] for words in self.status)

    def all(self, word: str) -> list[str]:
        """The first argument of each status line of a kind."""
        return [words[1] for words in self.status if words[:1] == [word] and len(words) > 1]

    def errors(self, place: str) -> set[int]:
        """The codes of what went wrong at a place that gpg names."""
        found = [words[2].split("_")[0] for words in self.status if words[:2] == ["ERROR", place]]
        return {int(code) & 0xFFFF for code in found if code.isdigit()}

    @property
    def reason(self) -> str:
        """What gpg tells people; the first of it that names a failure says most."""
        told = [line[5:] for line in self.err.splitlines() if line.startswith("gpg: ")]
        failures = [line for line in told if re.search(r"failed|error|skipped|no valid|can", line)]
        return (failures or told or [f"exit code {self.code}"])[0].strip(" .")


def _why_it_does_not_open(answer: _Answer, keyring: Keyring) -> PgkeepError:
    sealed_to = list(dict.fromkeys(answer.all("ENC_TO")))
    errors = answer.errors("pkdecrypt_failed")
    if _BAD_PASSPHRASE in errors:
        return KeyUnusable("the passphrase of the gpg key is wrong", hint="Try again.")
    if errors - _DAMAGE:
        return KeyUnusable(
            f"gpg may not use its secret key: {answer.reason}",
            hint="If it could not ask for the passphrase: run this in a terminal, or set"
            " PGKEEP_PASSPHRASE.",
        )
    if sealed_to and not errors and set(sealed_to) <= set(answer.all("NO_SECKEY")):
        return KeyMissing(
            f"{keyring} has no secret key for {', '.join(sealed_to)}",
            hint="Name the keyring that has it with --gpg-home FOLDER (or GNUPGHOME), or plug in"
            " the card that it is on.",
        )
    return DamagedObject(f"damaged gpg file: {answer.reason}")


def _program() -> str:
    found = shutil.which("gpg") or shutil.which("gpg2")
    if found is None:
        raise ProgramMissing(
            "gpg is not installed, and a key is in a keyring of gpg",
            hint="Install GnuPG: apt-get install gpg gpg-agent, or brew install gnupg.",
        )
    return found


def _environment() -> dict[str, str]:
    kept = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
    if "GPG_TTY" not in kept and os.isatty(0):
        kept["GPG_TTY"] = os.ttyname(0)  # where pinentry asks; gpg's own input is a pipe
    return {**kept, "LC_ALL": "C.UTF-8"}
