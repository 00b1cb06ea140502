"""What tests of second factors share: an app, keys that sign, and a clock to turn."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from conftest import Outcome, Workbench
from hardware_keys import HardwareKey
from pgkeep.cli.context import Context
from pgkeep.sealing import totp

SECRET = b"a secret of 20 bytes"


@dataclass(slots=True)
class Person:
    """Somebody with an authenticator app and a FIDO2 key, and a clock that is turned."""

    bench: Workbench
    secret: bytes = SECRET
    device: HardwareKey = field(default_factory=HardwareKey.ed25519)
    offset: timedelta = timedelta(0)

    def __post_init__(self) -> None:
        self.bench.monkeypatch.setattr(Context, "now", staticmethod(self.now))

    def now(self) -> datetime:
        return datetime.now(UTC) + self.offset

    def wait(self, **by: float) -> None:
        self.offset += timedelta(**by)

    def code(self) -> str:
        """A code that was not used yet."""
        self.wait(seconds=3 * totp.PERIOD_SECONDS)
        return totp.code_for(self.secret, totp.counter_at(self.now()))

    def wrong_code(self) -> str:
        now = totp.counter_at(self.now())
        right = {totp.code_for(self.secret, now + step) for step in range(-3, 4)}
        return next(code for code in map("{:06}".format, range(100)) if code not in right)

    # --- giving it ----------------------------------------------------------------------------

    def give(self, **variables: str | None) -> None:
        """Set `PGKEEP_...` variables, and unset all others of the kind."""
        for name in ("CODE", "APPROVAL", "NEW_CODE", "NEW_APPROVAL"):
            self.bench.monkeypatch.delenv(f"PGKEEP_{name}", raising=False)
        for name, value in variables.items():
            if value is not None:
                self.bench.monkeypatch.setenv(f"PGKEEP_{name.upper()}", value)

    def run(self, *arguments: str, expect: int | None = 0, **variables: Any) -> Outcome:
        self.give(**variables)
        outcome = self.bench.pgkeep(*arguments, expect=expect)
        self.give()
        return outcome

    # --- enrolling ----------------------------------------------------------------------------

    def enroll_app(self, name: str = "phone", **variables: Any) -> list[str]:
        """The recovery codes that come with it."""
        self.bench.monkeypatch.setenv("APP_SECRET", totp.show_secret(self.secret))
        outcome = self.run("factor", "enroll", name, "--secret", "env:APP_SECRET", "--json",
                           new_code=self.code(), **variables)  # fmt: skip
        document = outcome.document
        assert isinstance(document, dict)
        return list(document["recovery_codes"])

    def enroll_key(self, name: str = "token", *options: str, **variables: Any) -> None:
        path = self.bench.folder / f"{name}.pub"
        path.write_text(self.device.line + "\n")
        arguments = ("factor", "enroll", name, "--ssh-key", str(path), *options)
        self.run(*arguments, expect=1, **variables)
        signature = self.sign(self.challenges()[-1])
        if "code" in variables:
            variables = {**variables, "code": self.code()}
        self.run(*arguments, new_approval=signature, **variables)

    # --- signing ------------------------------------------------------------------------------

    def challenges(self) -> list[dict[str, Any]]:
        """Those that wait, oldest first."""
        return list(json.loads(self.bench.pgkeep("factor", "challenge", "--json").out))

    def sign(self, challenge: dict[str, Any]) -> str:
        """The path of a signature."""
        path = Path(challenge["file"])
        signature = path.with_name(f"{path.name}.sig")
        signature.write_bytes(self.device.sign(path.read_bytes()))
        return str(signature)
