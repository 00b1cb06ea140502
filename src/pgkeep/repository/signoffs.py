"""What only a person can say was done: signed by the host where it was said, kept in repositories.

signoffs/<time>-<random>.signoff
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from pgkeep.errors import PgkeepError
from pgkeep.records import JsonForm
from pgkeep.repository.envelope import pack, unpack
from pgkeep.repository.manifests import check_format
from pgkeep.repository.repository import Repository
from pgkeep.sealing import PublicSigner, SigningKey

FIRST_LINE = b"pgkeep sign-off\n"
FOLDER = "signoffs/"
_NAME = re.compile(r"\d{8}T\d{6}Z-[0-9a-f]{8}\.signoff")


@dataclass(frozen=True, slots=True)
class SignOff:
    """Somebody says that something was done."""

    format: int
    item: str
    name: str
    note: str
    at: datetime
    host: str


_SIGN_OFF = JsonForm(SignOff)


def seal_sign_off(one: SignOff, key: SigningKey) -> tuple[str, bytes]:
    """Where it is kept, and its file."""
    stamp = f"{one.at.astimezone(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(4)}"
    text = _SIGN_OFF.dump(one) + b"\n"
    return f"{FOLDER}{stamp}.signoff", pack(FIRST_LINE, text, b"", key)


def list_sign_offs(
    repository: Repository, trusted: Callable[[], Sequence[PublicSigner]]
) -> tuple[SignOff, ...]:
    """All that can be believed, oldest first. `trusted` is asked once, if there are any."""
    names = [
        file.name
        for file in repository.store.list(FOLDER)
        if _NAME.fullmatch(file.name.rpartition("/")[2])
    ]
    signers = trusted() if names else ()
    found = []
    for name in sorted(names):
        try:
            text, _ = unpack(repository.store.get(name), FIRST_LINE, signers)
            check_format(text, name)
            found.append(_SIGN_OFF.load(text))
        except (PgkeepError, ValueError):
            continue
    return tuple(found)
