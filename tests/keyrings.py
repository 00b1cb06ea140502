"""Keyrings of gpg that last as long as a test, with keys as bad as a test wants them."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from pgkeep.sealing import Keyring

PAST = "20200101T000000"


@dataclass(frozen=True, slots=True)
class ThrowAwayKeyring:
    """A folder for gpg. Its path is short: a socket of gpg's agent has to fit."""

    home: Path

    @classmethod
    def make(cls) -> ThrowAwayKeyring:
        if shutil.which("gpg") is None:
            missing = "gpg is not installed: apt-get install gpg gpg-agent"
            if "CI" in os.environ:
                pytest.fail(missing)
            pytest.skip(missing)
        made = cls(Path(tempfile.mkdtemp(prefix="pgkeep-gpg-", dir="/tmp")))
        made._configure_agent()
        return made

    def remove(self) -> None:
        """End its agent too."""
        subprocess.run(["gpgconf", "--homedir", self.home, "--kill", "all"], check=True)
        # The agent answers before it ends, and takes its sockets away while the folder is read.
        while self.home.exists():
            with suppress(FileNotFoundError):
                shutil.rmtree(self.home)

    def forget_passphrases(self) -> None:
        subprocess.run(["gpgconf", "--homedir", self.home, "--kill", "gpg-agent"], check=True)

    @contextmanager
    def asking_with(self, pinentry: str) -> Iterator[None]:
        """While the block runs, that is the program with which gpg's agent asks."""
        self._configure_agent(f"pinentry-program {pinentry}")
        try:
            yield
        finally:
            self._configure_agent()

    def _configure_agent(self, *settings: str) -> None:
        # Without the first, protecting a key with a passphrase takes seconds.
        lines = ("s2k-count 65536", *settings, "")
        (self.home / "gpg-agent.conf").write_text("\n".join(lines))
        self.forget_passphrases()

    @property
    def ours(self) -> Keyring:
        """The same, as pgkeep sees it."""
        return Keyring(self.home)

    def gpg(self, *words: str, given: bytes = b"") -> bytes:
        """Run gpg as an operator would."""
        command = ("gpg", "--homedir", str(self.home), "--batch", "--no-tty", "--yes", *words)
        done = subprocess.run(command, input=given, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout

    def new_key(
        self, user: str, *, passphrase: str = "", expires: str = "0", at: str = "",
        algorithm: str = "future-default",
    ) -> str:  # fmt: skip
        """Make a key that signs and encrypts; its fingerprint. Old ones are made `at` a time."""
        time = ("--faked-system-time", at) if at else ()
        self.gpg(
            *time, "--pinentry-mode", "loopback", "--passphrase", passphrase,
            "--quick-generate-key", user, algorithm, "default", expires,
        )  # fmt: skip
        return self.parts(f"={user}")[0]

    def parts(self, name: str) -> list[str]:
        """The fingerprints of the newest key of a name, and of its subkeys."""
        lines = self.gpg("--with-colons", "--list-keys", name).decode().splitlines()
        newest = max(index for index, line in enumerate(lines) if line.startswith("pub:"))
        return [line.split(":")[9] for line in lines[newest:] if line.startswith("fpr:")]

    def edit(self, fingerprint: str, *commands: str) -> None:
        """What `gpg --edit-key` is told, line by line."""
        text = "\n".join((*commands, "save", "")).encode()
        command = ("gpg", "--homedir", str(self.home), "--no-tty", "--command-fd", "0",
                   "--status-fd", "2", "--edit-key", fingerprint)  # fmt: skip
        done = subprocess.run(command, input=text, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr.decode()

    def revoke(self, fingerprint: str) -> None:
        certificate = (self.home / "openpgp-revocs.d" / f"{fingerprint}.rev").read_text()
        self.gpg("--import", given=certificate.replace(":-----BEGIN", "-----BEGIN").encode())

    def hand_public_keys_to(self, other: ThrowAwayKeyring) -> None:
        """What an operator sends to the backup host."""
        other.gpg("--import", given=self.gpg("--export"))
