"""pgkeep forget: begin anew where a repository has vanished for good."""

from __future__ import annotations

import rich_click as click
from rich.markup import escape

from pgkeep.cli.agreed import keep_repositories, removed_places
from pgkeep.cli.approving import action, require_factor
from pgkeep.cli.context import Context
from pgkeep.cli.options import command_options
from pgkeep.errors import ConfigurationError, ExitCode


@click.command("forget")
@click.argument("repository")
@command_options()
def forget(context: Context, repository: str) -> ExitCode:
    """Forget that this host has written to REPOSITORY (its name in the configuration).

    Where a repository has vanished, a backup fails rather than make a new one: the disk may not be
    mounted. This is how to say that it is gone for good, or that it was taken out of the
    configuration on purpose. Nothing at the place itself is touched.
    """
    places = context.config.repositories
    removed = {name: place for place, name in removed_places(context).items()}
    if repository not in places and repository in removed:
        require_factor(context, action("forget a repository", repository=repository))
        context.known_repositories.forget_place(removed[repository])
        keep_repositories(context)
        return _told(context, repository, None, known=True)
    places = context.places()
    if repository not in places:
        raise ConfigurationError(
            f"no repository {repository!r} is configured (configured: {', '.join(places)})",
            hint="Name one of these, or one that this host has written to before.",
        )
    where = context.where(repository, places[repository])
    require_factor(context, action("forget a repository", repository=repository, url=where.url))
    known = context.known_repositories.forget(where)
    return _told(context, repository, where.url, known=known)


def _told(context: Context, repository: str, url: str | None, *, known: bool) -> ExitCode:
    if context.as_json:
        context.answer({"repository": repository, "url": url, "was_known": known})
    elif url is None:
        context.out.print(f"{escape(repository)} is forgotten: it is configured no more")
    elif known:
        context.out.print(
            f"{escape(url)} is forgotten: if it is empty, the next backup makes a new"
            " repository there"
        )
    else:
        context.out.print(f"this host has not written to {escape(url)}")
    return ExitCode.DONE
