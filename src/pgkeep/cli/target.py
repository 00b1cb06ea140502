"""The database that a command is given on its command line."""

from __future__ import annotations

from contextlib import closing

from pgkeep.cli.context import Context
from pgkeep.config import SecretReference
from pgkeep.postgres import catalog
from pgkeep.postgres.address import Address
from pgkeep.postgres.session import connect, translated


def target_address(context: Context, text: str) -> Address:
    """A connection string, or where it is kept: `env:NAME` or `file:PATH`."""
    for prefix in ("env", "file"):
        if text.startswith(f"{prefix}:"):
            reference = SecretReference.model_validate({prefix: text.removeprefix(f"{prefix}:")})
            address = Address.parse(reference.resolve("the target's URL"))
            return address.within(context.networks(), "the target")
    address = Address.parse(text).within(context.networks(), "the target")
    if "password" in address.parameters and not address.is_local:
        context.warn(
            "a password on the command line can be seen by every user of this machine: better"
            " --target env:NAME or file:PATH"
        )
    return address


def is_occupied(address: Address) -> bool:
    """Whether there is anything of anybody's in a database."""
    with closing(connect(address)) as connection, translated(address):
        return bool(catalog.occupants(connection))
