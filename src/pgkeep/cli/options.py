"""The options that commands share, and options that exclude each other."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

import rich_click as click

from pgkeep import config as configuration
from pgkeep.cli.context import IDENTITY_VARIABLE, REASON_VARIABLE, Context
from pgkeep.errors import UsageError

R = TypeVar("R")


def command_options(
    *, repository: bool = False, identity: bool = False, trust: bool | None = None
) -> Callable[[Callable[..., R]], Callable[..., R]]:
    """The options that commands share; the function gets them as one `Context`, its first.

    `trust` is for what reads backups: where a repository can be named, unless it is said otherwise.
    """
    shared = _shared(repository, identity, repository if trust is None else trust)

    def decorate(function: Callable[..., R]) -> Callable[..., R]:
        @wraps(function)
        def run(**values: Any) -> R:
            context = Context(
                config_path=values.pop("config_path"),
                as_json=values.pop("as_json"),
                quiet=values.pop("quiet"),
                repository_urls=values.pop("repository_urls", ()),
                identity_paths=values.pop("identity_paths", ()),
                gpg_home_option=values.pop("gpg_home", None),
                signers_path=values.pop("signers_path", None),
                trusted_fingerprints=values.pop("trusted_fingerprints", ()),
            )
            values.pop("debug")
            values.pop("reason")  # for the ledger, which is written around every command
            return function(context, **values)

        wrapped: Callable[..., R] = run
        for option in reversed(shared):
            wrapped = option(wrapped)
        return wrapped

    return decorate


def _shared(repository: bool, identity: bool, trust: bool) -> list[Callable[..., Any]]:
    options: list[Callable[..., Any]] = []
    if repository:
        options.append(
            click.option(
                "--repository",
                "repository_urls",
                multiple=True,
                metavar="URL",
                help="Use this repository, not the configured ones (needs no configuration).",
            )
        )
    if trust:
        options.append(
            click.option(
                "--allowed-signers",
                "signers_path",
                type=click.Path(path_type=Path),
                help="A file of signers to believe, kept outside the repository.",
            )
        )
        options.append(
            click.option(
                "--trust",
                "trusted_fingerprints",
                multiple=True,
                metavar="FINGERPRINT",
                help="Believe the signer with this fingerprint (SHA256:...).",
            )
        )
    if identity:
        options.append(
            click.option(
                "--identity",
                "identity_paths",
                multiple=True,
                type=click.Path(path_type=Path),
                help=f"A key that opens backups; repeatable (or {IDENTITY_VARIABLE}).",
            )
        )
        options.append(
            click.option(
                "--gpg-home",
                type=click.Path(path_type=Path),
                help="The folder of the gpg keyring that opens backups.  [default: gpg's own]",
            )
        )
    options += [
        click.option(
            "--config",
            "config_path",
            type=click.Path(path_type=Path),
            help=f"The configuration file (or {configuration.CONFIG_VARIABLE}).",
        ),
        click.option(
            "--json",
            "as_json",
            is_flag=True,
            help="Answer with one JSON document; progress as JSON lines on standard error.",
        ),
        click.option("--quiet", is_flag=True, help="Show no progress."),
        click.option("--debug", is_flag=True, help="Show a traceback with an error."),
        click.option(
            "--reason",
            metavar="TEXT",
            envvar=REASON_VARIABLE,
            help=f"Why, for the ledger (or {REASON_VARIABLE}).",
        ),
    ]
    return options


def refuse_together(first: bool, second: bool, words: str) -> None:
    """`UsageError` when two options that exclude each other are both given."""
    if first and second:
        raise UsageError(f"{words} exclude each other")
