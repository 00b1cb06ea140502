"""Second factors of this host: who must be asked before something dangerous is done here.

    <state_dir>/factors.json            the factors (0600)
    <state_dir>/factors.state           what was used, what failed, how long it is locked
    <state_dir>/approvals/              texts to sign that are still waiting
    <repository>/factors/<host>.factors the factors, signed by this host; secrets sealed to it

The copy in the repositories brings the factors back where the file here was taken away or put back
to an older one. A factor guards the use of pgkeep on this host: whoever has an operator's key and
a copy of the repository needs no pgkeep.
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path

from pydantic import TypeAdapter

from pgkeep.errors import (
    ApprovalInvalid,
    ConfigurationError,
    FactorNeeded,
    FactorRefused,
    NotAuthentic,
    PgkeepError,
    UsageError,
)
from pgkeep.model import FORMAT
from pgkeep.repository.envelope import pack, unpack
from pgkeep.repository.hostkeys import write_private
from pgkeep.sealing import PublicSigner, Sealer, SigningKey, X25519Identity, totp, unseal
from pgkeep.sealing.operators import NAMESPACE, OperatorKey

FIRST_LINE = b"pgkeep factors\n"
CODES = 8
_TRIES = 5
_FIRST_LOCK, _LONGEST_LOCK = timedelta(minutes=1), timedelta(hours=4)
_APPROVAL_LASTS = timedelta(hours=1)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._@-]{0,62}")


@dataclass(frozen=True, slots=True)
class Factor:
    """One factor. Its secret is not in its repr."""

    name: str
    kind: str
    """`totp` or `ssh`."""
    enrolled: datetime
    confirmed: bool = True
    secret: str = field(default="", repr=False)
    """totp: hexadecimal."""
    public_key: str = ""
    """ssh: a line as in a .pub file."""
    verified_user: bool = False
    """ssh: whether a token must ask for its PIN as well as be touched."""
    codes: tuple[str, ...] = field(default=(), repr=False)
    """totp: SHA-256 of the codes for the day when the device is lost, each good once."""

    @property
    def key(self) -> OperatorKey:
        return OperatorKey.parse(self.public_key)


@dataclass(frozen=True, slots=True)
class Factors:
    """All of them. The number grows with every change, so that an old copy is told from a new."""

    format: int = FORMAT
    number: int = 0
    factors: tuple[Factor, ...] = ()

    @property
    def confirmed(self) -> tuple[Factor, ...]:
        return tuple(one for one in self.factors if one.confirmed)


@dataclass(frozen=True, slots=True)
class _Used:
    """What must not be used again, and what failed."""

    last_steps: dict[str, int] = field(default_factory=dict)
    failures: int = 0
    locks: int = 0
    locked_until: datetime | None = None


@dataclass(frozen=True, slots=True)
class Action:
    """Something dangerous, in words that say all that matters: an approval is good for just it."""

    name: str
    what: str

    def __str__(self) -> str:
        return f"{self.name}: {self.what}"


@dataclass(frozen=True, slots=True)
class Given:
    """What somebody has shown: a code, or a file with a signature."""

    code: str = ""
    approval: Path | None = None

    def __repr__(self) -> str:
        return f"Given(code={'...' if self.code else ''!r}, approval={self.approval!r})"


_FACTORS = TypeAdapter(Factors)
_USED = TypeAdapter(_Used)


class FactorStore:
    """The factors of the host with this state folder."""

    def __init__(self, state_dir: Path) -> None:
        self._folder = state_dir
        self._path = state_dir / "factors.json"
        self._state_path = state_dir / "factors.state"
        self._approvals = state_dir / "approvals"

    def load(self) -> Factors:
        """Those enrolled here. One that cannot be read is an error: it may be somebody's work."""
        try:
            return _FACTORS.validate_json(self._path.read_bytes())
        except FileNotFoundError:
            return Factors()
        except (OSError, ValueError) as exc:
            raise ConfigurationError(
                f"the second factors in {str(self._path)!r} cannot be read",
                hint="Put the file back from a copy of the state folder, or take it away: the"
                " repositories have another.",
            ) from exc

    # --- enrolling ------------------------------------------------------------

    def enroll_totp(self, name: str, now: datetime) -> tuple[Factor, bytes, tuple[str, ...]]:
        """A factor that does not count until it is confirmed; its secret and its spare codes."""
        secret = totp.new_secret()
        codes = tuple(_new_code() for _ in range(CODES))
        factor = Factor(
            self._free(name), "totp", now, confirmed=False, secret=secret.hex(),
            codes=tuple(_hashed(one) for one in codes),
        )  # fmt: skip
        self._change(lambda all_: (*(one for one in all_ if one.confirmed), factor))
        return factor, secret, codes

    def confirm(self, code: str, now: datetime) -> Factor:
        """Whoever enrolled it has it on their device: from now on it counts."""
        waiting = [one for one in self.load().factors if not one.confirmed]
        if not waiting:
            raise UsageError("no second factor waits to be confirmed", hint="Enroll one first.")
        factor = waiting[0]
        with self._locked():
            self._refuse_while_locked(now)
            step = totp.matching_step(bytes.fromhex(factor.secret), code.strip(), now, after=-1)
            if step is None:
                raise self._failed(now)
            self._succeeded(factor.name, step)
        made = replace(factor, confirmed=True)
        self._change(lambda all_: tuple(made if one == factor else one for one in all_))
        return made

    def enroll_ssh(
        self, name: str, public_key: str, now: datetime, *, verified_user: bool
    ) -> Factor:
        """An operator's key; it counts at once, since a public key proves itself at its use."""
        key = OperatorKey.parse(public_key)
        if verified_user and not key.is_hardware:
            raise UsageError("only a key in a hardware token asks for a PIN at each signature")
        factor = Factor(
            self._free(name or key.fingerprint), "ssh", now, public_key=public_key.strip(),
            verified_user=verified_user,
        )  # fmt: skip
        self._change(lambda all_: (*all_, factor))
        return factor

    def remove(self, name: str) -> Factor:
        """Take one away."""
        found = [one for one in self.load().factors if one.name == name]
        if not found:
            raise UsageError(f"no second factor is called {name!r}", hint="Run: pgkeep factor list")
        self._change(lambda all_: tuple(one for one in all_ if one.name != name))
        return found[0]

    def _free(self, name: str) -> str:
        taken = {one.name for one in self.load().factors}
        if name.startswith("SHA256:") and name not in taken:
            return name
        if not _NAME.fullmatch(name):
            raise UsageError(f"{name!r} is not a name for a second factor", hint="Letters, digits, "
                             "spaces and . _ @ - do.")  # fmt: skip
        if name in taken:
            raise UsageError(f"a second factor is called {name!r} already", hint="Choose another.")
        return name

    def _change(self, change: Callable[[tuple[Factor, ...]], tuple[Factor, ...]]) -> None:
        with self._locked():
            before = self.load()
            made = Factors(FORMAT, before.number + 1, change(before.factors))
            self._write(self._path, _FACTORS.dump_json(made))

    # --- being asked ------------------------------------------------------------

    def challenge(self, action: Action, now: datetime) -> Path:
        """A text to sign for just this action, within the hour."""
        self._approvals.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._forget_old(now)
        nonce = secrets.token_hex(16)
        path = self._approvals / f"{nonce}.txt"
        write_private(path, _text(action, nonce, now).encode())
        return path

    def check(self, action: Action, given: Given, now: datetime) -> Factor:
        """Whose factor it was; otherwise `FactorNeeded`, `FactorRefused` or `ApprovalInvalid`."""
        factors = self.load().confirmed
        if given.approval is not None:
            return self._check_approval(factors, action, given.approval, now)
        if given.code:
            return self._check_code(factors, given.code.strip(), now)
        raise FactorNeeded(f"a second factor is needed to {action}")

    def _check_code(self, factors: Sequence[Factor], code: str, now: datetime) -> Factor:
        with self._locked():
            self._refuse_while_locked(now)
            used = self._used()
            for factor in factors:
                if factor.kind != "totp":
                    continue
                after = used.last_steps.get(factor.name, -1)
                step = totp.matching_step(bytes.fromhex(factor.secret), code, now, after=after)
                if step is not None:
                    self._succeeded(factor.name, step)
                    return factor
                if _hashed(code) in factor.codes:
                    self._use_up(factor, _hashed(code))
                    self._succeeded(factor.name, after)
                    return factor
            raise self._failed(now)

    def _use_up(self, factor: Factor, hashed: str) -> None:
        before = self.load()
        left = replace(factor, codes=tuple(one for one in factor.codes if one != hashed))
        factors = tuple(left if one.name == factor.name else one for one in before.factors)
        self._write(self._path, _FACTORS.dump_json(Factors(FORMAT, before.number + 1, factors)))

    def _check_approval(
        self, factors: Sequence[Factor], action: Action, path: Path, now: datetime
    ) -> Factor:
        with self._locked():
            text_path = self._approvals / path.name.removesuffix(".sig")
            try:
                signature, text = path.read_bytes(), text_path.read_bytes()
            except OSError as exc:
                raise ApprovalInvalid(
                    f"{str(path)!r} approves nothing that waits here: it was used, or is too old"
                ) from exc
            nonce = text_path.name.removesuffix(".txt")
            self._refuse_other_text(text.decode("utf-8", "replace"), action, nonce, now)
            factor = _signer(factors, text, signature)
            text_path.unlink()
            return factor

    def _refuse_other_text(self, text: str, action: Action, nonce: str, now: datetime) -> None:
        begun = _begun(text)
        if begun is None or text != _text(action, nonce, begun):
            raise ApprovalInvalid(f"the signed text is not for this action ({action})")
        if not timedelta(0) <= now - begun < _APPROVAL_LASTS:
            raise ApprovalInvalid(f"the signed text is of {begun:%Y-%m-%d %H:%M} UTC: too old")

    def _forget_old(self, now: datetime) -> None:
        for path in self._approvals.glob("*.txt"):
            with suppress(OSError):
                if now.timestamp() - path.stat().st_mtime > _APPROVAL_LASTS.total_seconds():
                    path.unlink()

    # --- what failed and what was used ------------------------------------------------------------

    def _refuse_while_locked(self, now: datetime) -> None:
        until = self._used().locked_until
        # A clock that was put back makes this longer, never shorter.
        if until is not None and now < until:
            raise FactorRefused(
                f"too many wrong codes: locked until {until:%Y-%m-%d %H:%M:%S} UTC",
                hint="Wait until then, or use an operator's SSH key.",
            )

    def _failed(self, now: datetime) -> FactorRefused:
        used = self._used()
        failures = used.failures + 1
        if failures < _TRIES:
            self._keep(replace(used, failures=failures))
            left = _TRIES - failures
            return FactorRefused(
                f"the code is wrong or was used before ({left} more before a lock-out)"
            )
        lock = min(_FIRST_LOCK * 2**used.locks, _LONGEST_LOCK)
        self._keep(replace(used, failures=0, locks=used.locks + 1, locked_until=now + lock))
        minutes = lock.total_seconds() / 60
        return FactorRefused(f"the code is wrong: locked for {minutes:.0f} minutes")

    def _succeeded(self, name: str, step: int) -> None:
        steps = {**self._used().last_steps, name: step}
        self._keep(_Used(last_steps=steps))

    def _used(self) -> _Used:
        try:
            return _USED.validate_json(self._state_path.read_bytes())
        except FileNotFoundError:
            return _Used()
        except (OSError, ValueError):
            # Whoever broke it shall not have a free try with a code that was used.
            return _Used(locked_until=datetime.now(UTC) + _FIRST_LOCK)

    def _keep(self, used: _Used) -> None:
        self._write(self._state_path, _USED.dump_json(used))

    def _write(self, path: Path, data: bytes) -> None:
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_private(path, data)
        except OSError as exc:
            raise ConfigurationError(
                f"cannot write to the state folder {str(self._folder)!r}:"
                f" {(exc.strerror or str(exc)).lower()}",
                hint="What cannot be noted cannot be refused a second time: free space there.",
            ) from exc

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """One process at a time: a code that two give at once is good for one of them."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(
            self._folder / "factors.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
        )
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)

    # --- the copies in repositories ------------------------------------------------------------

    def copy(self, host: str, key: SigningKey, index: X25519Identity) -> tuple[str, bytes]:
        """Where a repository keeps them, and the file."""
        body = bytearray()
        sealer = Sealer([index.recipient], level=3, sink=body.extend)
        factors = self.load()
        sealer.write(_FACTORS.dump_json(factors))
        sealer.close()
        head = (
            f'{{"format":{FORMAT},"number":{factors.number},"sha256":"{sha256(body).hexdigest()}"}}'
        )
        return copy_name(host), pack(FIRST_LINE, head.encode() + b"\n", bytes(body), key)

    def take_back(self, data: bytes, signer: PublicSigner, index: X25519Identity) -> bool:
        """Use a repository's copy if it is newer than the file here; whether it was."""
        try:
            head, body = unpack(data, FIRST_LINE, [signer])
            if sha256(body).hexdigest().encode() not in head:
                return False
            found = _FACTORS.validate_json(b"".join(unseal(body, [index])))
        except (PgkeepError, ValueError):
            return False
        with self._locked():
            if found.number <= self.load().number:
                return False
            self._write(self._path, _FACTORS.dump_json(found))
        return True


def copy_name(host: str) -> str:
    """Where a repository keeps the factors of a host."""
    return f"factors/{re.sub('[^A-Za-z0-9_-]', '-', host) or 'host'}.factors"


def _signer(factors: Sequence[Factor], text: bytes, signature: bytes) -> Factor:
    problem = "no operator's SSH key is enrolled"
    for factor in factors:
        if factor.kind != "ssh":
            continue
        try:
            factor.key.verify(text, signature, verified_user=factor.verified_user)
        except NotAuthentic as exc:
            problem = exc.message
        else:
            return factor
    raise ApprovalInvalid(
        f"the signature does not approve: {problem}",
        hint=f"Sign with: ssh-keygen -Y sign -n {NAMESPACE} -f KEY FILE",
    )


def _text(action: Action, nonce: str, begun: datetime) -> str:
    """What an operator signs: everything that matters, readable."""
    what = " ".join(action.what.splitlines())
    return (
        "pgkeep asks for your approval\n"
        f"action: {action.name}\n"
        f"what: {what}\n"
        f"begun: {begun.astimezone(UTC).isoformat(timespec='seconds')}\n"
        f"nonce: {nonce}\n"
    )


def _begun(text: str) -> datetime | None:
    found = re.search(r"^begun: (\S+)$", text, re.M)
    try:
        return datetime.fromisoformat(found[1]) if found else None
    except ValueError:
        return None


def _new_code() -> str:
    """80 random bits, in groups that can be read out."""
    text = secrets.token_hex(10)
    return "-".join(text[at : at + 5] for at in range(0, 20, 5))


def _hashed(code: str) -> str:
    return sha256(code.strip().lower().encode()).hexdigest()
