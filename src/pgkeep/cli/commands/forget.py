"""pgkeep forget: begin anew where a repository has vanished for good."""

from __future__ import annotations

import rich_click as click
from rich.markup import escape

from pgkeep.cli.approving import require_factor
from pgkeep.cli.context import Context
from pgkeep.cli.options import command_options
from pgkeep.errors import ConfigurationError, ExitCode


@click.command("forget")
@click.argument("repository")
@command_options()
def forget(context: Context, repository: str) -> ExitCode:
    """Forget that this host has written to REPOSITORY (its name in the configuration).

    Where a repository has vanished, a backup fails rather than make a new one: the disk may not be
    mounted. This is how to say that it is gone for good. Nothing at the place itself is touched.
    """
    places = context.places()
    if repository not in places:
        raise ConfigurationError(
            f"no repository {repository!r} is configured (configured: {', '.join(places)})"
        )
    require_factor(context, "forget", f"repository {repository} at {places[repository].url}")
    where = context.where(repository, places[repository])
    known = context.known_repositories.forget(where)
    if context.as_json:
        context.answer({"repository": repository, "url": where.url, "was_known": known})
    elif known:
        context.out.print(
            f"{escape(where.url)} is forgotten: if it is empty, the next backup makes a new"
            " repository there"
        )
    else:
        context.out.print(f"this host has not written to {escape(where.url)}")
    return ExitCode.DONE
