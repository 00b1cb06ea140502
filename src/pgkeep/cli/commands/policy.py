"""pgkeep policy: the least rights for a repository, to be given by whoever administers it."""

from __future__ import annotations

import json
from urllib.parse import unquote, urlsplit

import rich_click as click
from rich.markup import escape

from pgkeep.cli.context import Context
from pgkeep.cli.options import command_options
from pgkeep.config import RepositoryConfig
from pgkeep.errors import ExitCode, UsageError
from pgkeep.platforms.projects import project_of_storage
from pgkeep.repository.policies import Role, folder_advice, google_commands, s3_policy
from pgkeep.stores.remote import parse_place


@click.command("policy")
@click.argument("role", type=click.Choice([role.value for role in Role]))
@click.argument("repository", required=False)
@command_options()
def policy(context: Context, role: str, repository: str | None) -> ExitCode:
    """Print the least rights that a ROLE needs in REPOSITORY (its name, or a URL).

    For s3:// a policy of IAM, for gs:// commands, for folders words. A writer makes backups and
    syncs, a pruner deletes what expired, a reader restores.
    """
    place = _place(context, repository)
    chosen = Role(role)
    scheme = place.url.partition("://")[0]
    document: dict[str, object] = {"role": role, "url": place.url}
    match scheme:
        case "s3":
            made = s3_policy(chosen, parse_place(place.url))
            document["policy"] = made
            text = json.dumps(made, indent=2)
        case "gs":
            commands = google_commands(chosen, parse_place(place.url))
            document["commands"] = list(commands)
            text = "\n".join(commands)
        case "file":
            advice = folder_advice(chosen, unquote(urlsplit(place.url).path))
            document["advice"] = list(advice)
            text = "\n".join(advice)
        case _:
            raise UsageError(f"{repository!r} is not a repository that pgkeep knows")
    if context.as_json:
        context.answer(document)
    else:
        click.echo(text)
        _tell_more(context, chosen, scheme, place)
    return ExitCode.DONE


def _place(context: Context, repository: str | None) -> RepositoryConfig:
    if repository is not None and "://" in repository:
        return RepositoryConfig(url=repository)
    places = context.places()
    if repository is None and len(places) == 1:
        return next(iter(places.values()))
    if repository not in places:
        what = f"no repository {repository!r} is configured" if repository else "which repository?"
        raise UsageError(what, hint=f"Name one of: {', '.join(places)}; or give a URL.")
    return places[repository]


def _tell_more(context: Context, role: Role, scheme: str, place: RepositoryConfig) -> None:
    """What a policy cannot say, on standard error: the policy itself may go into a file."""
    notes = []
    if scheme == "s3" and project_of_storage(place.endpoint) is not None:
        notes.append("Supabase Storage knows no such policy: its S3 keys may do everything.")
    elif scheme == "s3" and role is Role.WRITER:
        notes.append(
            "s3:PutObject can write over an object: turn versioning on, so that what was there"
            " stays (pgkeep doctor tells whether it is)."
        )
    if scheme == "gs":
        notes.append("Set PROJECT and ACCOUNT (a service account's address) first.")
    for note in notes:
        context.err.print(f"[dim]{escape(note)}[/]")
