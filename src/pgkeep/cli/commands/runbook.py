"""pgkeep runbook: how to get a database back, as a page for the day when nobody knows."""

from __future__ import annotations

import html
import socket
from collections.abc import Iterator
from pathlib import Path

import rich_click as click
from markdown_it import MarkdownIt
from rich.markup import escape

from pgkeep.cli.choice import critical_tables
from pgkeep.cli.commands.status import look_at
from pgkeep.cli.context import Context
from pgkeep.cli.options import command_options
from pgkeep.config import RepositoryConfig, SecretReference
from pgkeep.errors import ExitCode, UsageError
from pgkeep.model import Kind
from pgkeep.recovery.hooks import in_words
from pgkeep.recovery.runbook import Place, RunbookFacts, write_runbook

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 48rem; margin: 2rem auto; padding: 0 1rem }
pre { background: #f4f4f4; padding: .8rem; white-space: pre-wrap; overflow-wrap: anywhere }
code { font-size: 90% }
td, th { padding: .2rem .8rem; border-bottom: 1px solid #ddd; text-align: left }
"""


@click.command("runbook")
@click.argument("database")
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="FILE", help="Write the"
              " page here, as HTML if it ends in .html.  [default: to the screen]")  # fmt: skip
@command_options(trust=True)
def runbook_command(context: Context, database: str, output: Path | None) -> ExitCode:
    """Write down how to get DATABASE back, with its own names, copies, keys and measured times.

    It holds no secret, only where each is kept.
    """
    page = write_runbook(_facts(context, database))
    if context.as_json:
        context.answer({"database": database, "markdown": page})
        return ExitCode.DONE
    if output is None:
        context.out.print(escape(page), end="")
        return ExitCode.DONE
    text = _html(database, page) if output.suffix in (".html", ".htm") else page
    try:
        output.write_text(text, encoding="utf-8")
    except OSError as exc:
        reason = (exc.strerror or str(exc)).lower()
        raise UsageError(f"cannot write {str(output)!r}: {reason}") from exc
    context.remark(f"wrote {output}", mark="[green]✓[/]")
    return ExitCode.ATTENTION if context.needs_attention else ExitCode.DONE


def _facts(context: Context, database: str) -> RunbookFacts:
    configured = context.config.database(database)
    repositories = context.repositories()
    known = look_at(context, database, repositories, offline=True)
    newest = known.newest.get(Kind.FULL)
    listings = context.listings(repositories, database)
    now = context.now()
    return RunbookFacts(
        database=database,
        source=str(context.address(database)),
        written=now,
        host=socket.gethostname(),
        places=[
            Place(
                one.name,
                one.store.url,
                _access(context.places()[one.name]),
                one.name in listings and newest in listings[one.name].backups,
                list(_variables(context.places()[one.name])),
            )
            for one in repositories
        ],
        recipients=context.recipients(),
        signers=list(dict.fromkeys(one.fingerprint for one in context.trusted(repositories[0]))),
        newest=newest,
        reach=known.reach,
        drills=known.drills,
        objectives=known.objectives(configured.objectives, now),
        checks=[(one.name, one.sql) for one in configured.checks],
        critical=[str(name) for name in critical_tables(context, database)],
        stop=[in_words(command) for command in configured.recovery.stop],
        start=[in_words(command) for command in configured.recovery.start],
    )


def _access(place: RepositoryConfig) -> str:
    """Where its credentials are kept, never what they are."""
    said = []
    if place.endpoint:
        said.append(f"endpoint {place.endpoint}")
    if place.region:
        said.append(f"region {place.region}")
    if place.profile:
        said.append(f"profile {place.profile}")
    for key in ("access_key_id", "secret_access_key", "session_token"):
        value = getattr(place, key)
        if isinstance(value, SecretReference):
            said.append(f"{key.replace('_', ' ')} in {_where(value)}")
        elif value is not None:
            said.append(f"{key.replace('_', ' ')} in the configuration of the host")
    if place.credentials_file is not None:
        said.append(f"credentials in the file {place.credentials_file}")
    if not said and not place.url.startswith("file:"):
        said.append("credentials as the SDK finds them")
    return ", ".join(said)


def _variables(place: RepositoryConfig) -> Iterator[tuple[str, str]]:
    """What the SDKs find in the environment, where there is no configuration."""
    if place.credentials_file is not None:
        yield "GOOGLE_APPLICATION_CREDENTIALS", str(place.credentials_file)
    if not place.url.startswith("s3:"):
        return
    if place.profile:
        yield "AWS_PROFILE", place.profile
    if place.endpoint:
        yield "AWS_ENDPOINT_URL_S3", place.endpoint
    if place.region:
        yield "AWS_REGION", place.region
    if place.access_key_id is not None:
        yield "AWS_ACCESS_KEY_ID", "..."
        yield "AWS_SECRET_ACCESS_KEY", "..."


def _where(reference: SecretReference) -> str:
    if reference.env is not None:
        return f"the variable {reference.env}"
    if reference.file is not None:
        return f"the file {reference.file}"
    return "what a command of the host's configuration prints"


def _html(database: str, page: str) -> str:
    body = MarkdownIt("commonmark", {"html": False}).enable("table").render(page)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f"<title>How to get {html.escape(database)} back</title><style>{_STYLE}</style></head>"
        f"<body>\n{body}</body></html>\n"
    )
