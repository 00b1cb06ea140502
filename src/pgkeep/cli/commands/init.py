"""pgkeep init: a configuration and keys, asking little."""

from __future__ import annotations

import os
import re
import sys
from contextlib import suppress
from getpass import getpass
from pathlib import Path

import rich_click as click
from rich.panel import Panel

from pgkeep.cli.context import PASSPHRASE_VARIABLE, SIGNER_COMMENT, Context
from pgkeep.cli.options import command_options
from pgkeep.cli.template import SupabaseCopy, repository_sections, toml
from pgkeep.config import DEFAULT_NAME, default_state_dir, parse
from pgkeep.errors import ConfigurationError, ExitCode, UsageError
from pgkeep.platforms.addresses import Way, recognise
from pgkeep.postgres.address import Address
from pgkeep.repository.hostkeys import HostKeys, write_private
from pgkeep.sealing import Recipients, X25519Identity, seal_with_passphrase
from pgkeep.stores import open_store

_IDENTITY_NAME = "pgkeep-identity.txt"

_TEMPLATE = """\
# pgkeep: what is backed up, where to, and who can open it. No secret belongs in this file.

state_dir = {state_dir}

[databases.{database}]
url = {url}

# Each backup goes to all of these, the same bytes to each; pgkeep doctor looks after them. More
# settings: docs/storage.md.

{repositories}
[encryption]
# Whoever holds the private half of one of these opens the backups. ssh keys and gpg:NAME work too.
recipients = [{recipients}]{gpg_home}
# Whose backups are believed at restore: this host's signing key.
trusted_signers = [{signer}]
"""


@click.command("init")
@click.argument("database", default="main")
@click.option("--url-env", metavar="NAME", help="The variable that holds the connection string.")
@click.option(
    "--url-file", type=click.Path(path_type=Path), help="The file that holds the connection string."
)
@click.option(
    "--repository",
    "repositories",
    multiple=True,
    metavar="URL",
    help="Where backups go: s3://, gs:// or file://; repeatable.  [default: ./backups]",
)
@click.option(
    "--supabase-storage",
    metavar="PROJECT/BUCKET",
    help="A bucket in another Supabase project, for schema backups too.",
)
@click.option(
    "--recipient",
    "recipients",
    multiple=True,
    help="A public key that opens backups (age1..., an ssh key, or gpg:NAME); repeatable. Without"
    " one, a new identity is made.",
)
@click.option(
    "--gpg-home", type=click.Path(path_type=Path), help="The folder of the keyring of gpg keys."
)
@click.option("--passphrase", is_flag=True, help="Protect the new identity with a passphrase.")
@click.option(
    "--state-dir", type=click.Path(path_type=Path), help="Where this host keeps its keys."
)
@command_options()
def init(
    context: Context,
    database: str,
    url_env: str | None,
    url_file: Path | None,
    repositories: tuple[str, ...],
    supabase_storage: str | None,
    recipients: tuple[str, ...],
    passphrase: bool,
    state_dir: Path | None,
) -> ExitCode:
    """Write a configuration for DATABASE, and make the keys."""
    path = (context.config_path or Path(DEFAULT_NAME)).absolute()
    identity_path = path.parent / _IDENTITY_NAME
    state = (state_dir or default_state_dir()).absolute()
    places = repositories or ((path.parent / "backups").as_uri(),)
    supabase = SupabaseCopy.parse(supabase_storage) if supabase_storage else None
    _refuse(path, identity_path if not recipients else None)
    for place in places:
        open_store(place)
    gpg_home = context.gpg_home_option
    found = Recipients.find(recipients, gpg_home)
    parse({"databases": {database: {"url": "x"}}})
    secret = _passphrase() if passphrase and not recipients else ""
    source = _url_reference(path.parent, database, url_env, url_file)

    signer = HostKeys(state).signing_key().public
    HostKeys(state).index_key()
    if not recipients:
        identity = X25519Identity.generate()
        recipients = (str(identity.recipient),)
        plain = _identity_file(identity, signer.line, database)
        write_private(identity_path, seal_with_passphrase(plain, secret) if secret else plain)
    document = _TEMPLATE.format(
        state_dir=toml(str(state)),
        database=database,
        url=source,
        repositories=repository_sections(places, supabase),
        recipients=", ".join(toml(text) for text in recipients),
        gpg_home=f"\ngpg_home = {toml(str(gpg_home.absolute()))}" if gpg_home else "",
        signer=toml(signer.line),
    )
    write_private(path, document.encode())
    _warn_of_same_project(context, path, database)
    made = identity_path if identity_path.exists() else None
    for key in found.gpg:
        context.remark(f"gpg:{key.name} is the key {key.fingerprint}", mark="[green]✓[/]")
    if context.as_json:
        context.answer(
            {
                "config": str(path),
                "identity": str(made) if made else None,
                "recipients": list(recipients),
                "signer": signer.fingerprint,
                "repositories": [*places, *([supabase.url] if supabase else ())],
            }
        )
    else:
        _explain(context, path, made, signer.fingerprint, database, source, protected=bool(secret))
    return ExitCode.DONE


def _warn_of_same_project(context: Context, path: Path, database: str) -> None:
    """Where the connection string is at hand already; doctor and backup look again."""
    context.config_path = path
    with suppress(ConfigurationError):
        address = context.address(database)
        context.warn_of_same_project(database, address)
        _tell_of_project(context, address)


def _tell_of_project(context: Context, address: Address) -> None:
    """Which project of Supabase it is, and whether the way there is one for backups."""
    project = recognise(address)
    if project is None:
        return
    named = project.project or "which its user does not name"
    context.remark(f"Supabase project {named}, by the {project.way}", mark="[green]✓[/]")
    if project.way is Way.TRANSACTION_POOLER:
        context.warn(
            "a transaction pooler cannot hold a snapshot: take the session pooler's connection"
            " string (port 5432) from the project's Connect dialog"
        )
    elif project.way is Way.DIRECT:
        context.remark(
            "the direct host has an IPv6 address alone, unless the project has the IPv4 add-on:"
            " pgkeep doctor tells whether this machine reaches it",
            mark="[dim]-[/]",
        )


def _refuse(path: Path, identity_path: Path | None) -> None:
    for file in (path, identity_path):
        if file is not None and file.exists():
            raise ConfigurationError(
                f"{str(file)!r} is there already", hint="Move it away first; nothing was changed."
            )
    if not path.parent.is_dir():
        raise ConfigurationError(f"there is no folder {str(path.parent)!r}")


def _url_reference(folder: Path, database: str, env: str | None, file: Path | None) -> str:
    """How the configuration refers to the connection string, asking for it if there is a person."""
    if env and file:
        raise UsageError("--url-env and --url-file exclude each other")
    if file is not None:
        return f"{{ file = {toml(str(file.absolute()))} }}"
    name = env or re.sub(r"[^A-Z0-9]", "_", database.upper()) + "_DATABASE_URL"
    if env is None and name not in os.environ and sys.stdin.isatty():
        url = getpass(f"Connection string of {database} (not shown; empty: it is in ${name}): ")
        if url.strip():
            Address.parse(url.strip())
            kept = folder / f"{database}.url"
            write_private(kept, url.strip().encode() + b"\n")
            return f"{{ file = {toml(str(kept))} }}"
    return f"{{ env = {toml(name)} }}"


def _identity_file(identity: X25519Identity, signer: str, database: str) -> bytes:
    return (
        f"# pgkeep identity: opens the backups of {database!r}. Keep it away from their host.\n"
        f"# public key: {identity.recipient}\n"
        f"{SIGNER_COMMENT}{signer}\n"
        f"{identity}\n"
    ).encode()


def _passphrase() -> str:
    if value := os.environ.get(PASSPHRASE_VARIABLE):
        return value
    if not sys.stdin.isatty():
        raise UsageError(
            "there is no terminal to ask for a passphrase", hint=f"Set {PASSPHRASE_VARIABLE}."
        )
    first = getpass("Passphrase for the identity: ")
    if not first or getpass("Once more: ") != first:
        raise UsageError("the passphrases are empty or differ; nothing was written")
    return first


def _explain(
    context: Context,
    path: Path,
    identity: Path | None,
    fingerprint: str,
    database: str,
    source: str,
    *,
    protected: bool,
) -> None:
    out = context.out
    out.print(f"[green]✓[/] {path}: the configuration")
    out.print(f"[green]✓[/] this host signs as {fingerprint}")
    if identity is not None:
        out.print(f"[green]✓[/] {identity}: the identity, the only thing that opens backups")
        guarded = "It asks for your passphrase." if protected else "It has no passphrase."
        out.print(
            Panel(
                f"[bold]Move {identity.name} away from this machine now[/]: into a password"
                f" manager, and on paper. {guarded} Backups need only the public key; restores need"
                " this file. Whoever has it reads your backups; without it nobody does, you"
                f" included.\nNote the signer too: {fingerprint}",
                title="keep elsewhere",
                border_style="yellow",
                width=min(out.width, 90),
            ),
            soft_wrap=False,
        )
    variable = re.fullmatch(r'\{ env = "(.+)" \}', source)
    if variable and variable[1] not in os.environ:
        out.print(f"next: set the variable in [bold]url = {source}[/], then")
    out.print(f"next: [bold]pgkeep backup {database}[/]")
