"""What commands do through a platform's own interface: its backups, and restores in place."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import closing, suppress
from datetime import UTC, datetime
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

import click
from rich.markup import escape

from pgkeep.capture.setup import PUBLICATIONS
from pgkeep.cli import words
from pgkeep.cli.approving import action, require_factor
from pgkeep.cli.commands.capture import slot_name
from pgkeep.cli.context import Context
from pgkeep.cli.options import refuse_together
from pgkeep.errors import ConfigurationError, ExitCode, PgkeepError, UsageError
from pgkeep.platforms.addresses import recognise
from pgkeep.platforms.login import SCHEME
from pgkeep.platforms.management import Management, PlatformBackups
from pgkeep.postgres.session import connect, translated
from pgkeep.postgres.slot import Slot
from pgkeep.recovery import in_place
from pgkeep.recovery.in_place import Progress, Wish
from pgkeep.recovery.moment import AtTime, parse_moment

R = TypeVar("R")


def managed_options(function: Callable[..., R]) -> Callable[..., R | ExitCode]:
    """What lets a platform itself do it. Given, the command is that and nothing else."""

    @wraps(function)
    def run(context: Context, **values: Any) -> R | ExitCode:
        managed, point = values.pop("managed"), values.pop("restore_point")
        made, number = values.pop("make_restore_point"), values.pop("platform_backup")
        confirmed = values.pop("yes_take_it_offline")
        if not (managed or made):
            refuse_together(bool(point or number), True, "--restore-point, --platform-backup and a"
                            " recovery that is not --managed")  # fmt: skip
            return function(context, **values)
        database, dry_run = values["database"], values["dry_run"]
        if made:
            return make_restore_point(context, database, made, dry_run=dry_run)
        wish = _wish(values["to"], point, number)
        return recover_in_place(context, database, wish, confirmed=confirmed, dry_run=dry_run)

    wrapped: Callable[..., R | ExitCode] = run
    for option in (
        click.option("--yes-take-it-offline", is_flag=True, help="--managed: do not ask."),
        click.option("--make-restore-point", metavar="NAME", help="Only name this moment, for"
                     " --restore-point (needs a token)."),
        click.option("--platform-backup", type=int, metavar="ID", help="--managed: one of the"
                     " platform's daily backups."),
        click.option("--restore-point", metavar="NAME", help="--managed: to this restore point."),
        click.option("--managed", is_flag=True, help="Let the platform itself restore the project,"
                     " in place and offline meanwhile (needs a token)."),
    ):  # fmt: skip
        wrapped = option(wrapped)
    return wrapped


def _wish(to: str | None, point: str | None, number: int | None) -> Wish:
    if sum(one is not None for one in (to, point, number)) != 1:
        raise UsageError(
            "to where?", hint="Give one of --to MOMENT, --restore-point and --platform-backup."
        )
    if to is None:
        return Wish(None, point or "", number)
    moment = parse_moment(to)
    if not isinstance(moment, AtTime):
        raise UsageError(f"the platform restores to times alone, not to {to!r}")
    return Wish(moment.time)


def project_of(context: Context, database: str) -> tuple[Management, str]:
    """The interface and the project's reference; `ConfigurationError` without a token."""
    management = context.management(database)
    if management is None:
        raise ConfigurationError(
            f"database {database!r} has no token for its platform",
            hint=f'Add [databases.{database}.supabase] token = {{ env = "..." }}.',
        )
    settings = context.config.database(database).supabase
    if settings.project:
        return management, settings.project
    url = context.url(database)
    if url.startswith(SCHEME):
        return management, url.removeprefix(SCHEME).partition("?")[0].rstrip("/")
    project = recognise(context.address(database))
    if project is None or not project.project:
        raise ConfigurationError(
            f"which project database {database!r} is in is not known",
            hint=f'Add project = "REF" to [databases.{database}.supabase].',
        )
    return management, project.project


def list_platform(context: Context, database: str) -> ExitCode:
    """The platform's own backups. Attention if the newest is missing, failed or old."""
    management, ref = project_of(context, database)
    found, points = management.backups(ref), management.restore_points(ref)
    if context.as_json:
        context.answer(_document(ref, found, [one.name for one in points]))
        return ExitCode.DONE
    out, now = context.out, context.now()
    out.print(f"[bold cyan]{escape(database)}[/]  Supabase project {escape(ref)}")
    if found.pitr and found.earliest and found.latest:
        out.print(f"  every second {words.moment(found.earliest)} to {words.moment(found.latest)}")
    elif found.pitr:
        out.print("  point-in-time recovery is enabled")
    for one in found.backups:
        colour = "green" if one.is_complete else "yellow"
        kind = "physical" if one.is_physical else "logical"
        out.print(
            f"  {one.id:>10}  {words.moment(one.made)}  {words.age(one.made, now):<12}"
            f" [{colour}]{one.status.lower()}[/] [dim]{kind}[/]"
        )
    for point in points:
        out.print(f"  restore point {escape(point.name)}  [dim]{point.status.lower()}[/]")
    if not found.backups and not found.pitr:
        out.print("  [yellow]none[/]: the platform keeps nothing of this project that you can use")
    return ExitCode.DONE


def _document(ref: str, found: PlatformBackups, points: list[str]) -> dict[str, object]:
    return {
        "project": ref,
        "pitr": found.pitr,
        "earliest": found.earliest.isoformat() if found.earliest else None,
        "latest": found.latest.isoformat() if found.latest else None,
        "backups": [
            {"id": one.id, "made": one.made.isoformat(), "status": one.status,
             "physical": one.is_physical}
            for one in found.backups
        ],
        "restore_points": points,
    }  # fmt: skip


def make_restore_point(context: Context, database: str, name: str, *, dry_run: bool) -> ExitCode:
    """Name this moment, to go back to it."""
    if not 1 <= len(name) <= 20:
        raise UsageError(f"{name!r} is not a restore point's name", hint="1 to 20 characters.")
    management, ref = project_of(context, database)
    if dry_run:
        context.out.print(f"would make restore point {escape(name)} in project {escape(ref)}")
        return ExitCode.DONE
    point = management.make_restore_point(ref, name)
    if context.as_json:
        context.answer({"project": ref, "restore_point": point.name, "status": point.status})
    else:
        context.out.print(f"restore point {escape(point.name)}: {point.status.lower()}")
    return ExitCode.DONE


def recover_in_place(
    context: Context, database: str, wish: Wish, *, confirmed: bool, dry_run: bool
) -> ExitCode:
    """Let the platform restore the project itself, with our slot out of its way."""
    management, ref = project_of(context, database)
    path = context.config.state_dir / "recoveries" / f"{database}.managed.json"
    progress = in_place.load(path)
    if progress is not None and progress.ref == ref:
        context.warn(
            f"a restore in place to {progress.wish} was begun on {words.moment(progress.began)}: it"
            " goes on"
        )
    else:
        in_place.check(
            wish, management.backups(ref), lambda: tuple(
                one.name for one in management.restore_points(ref)
            ),
        )  # fmt: skip
        progress = Progress(ref, wish, context.now())
    project = management.project(ref)
    for line in in_place.describe(project, progress.wish, slot=slot_name(context, database)):
        (context.out if dry_run else context.err).print(escape(line))
    if dry_run:
        return ExitCode.DONE
    _confirm(ref, confirmed=confirmed)
    require_factor(context, action("recover in place", database, project=ref, to=progress.wish))
    in_place.run(
        management, path, progress,
        detach=lambda: _detach(context, database), tell=lambda text: _tell(context, text),
    )  # fmt: skip
    return _over(context, database, ref, progress, path)


def _tell(context: Context, text: str) -> None:
    context.remark(f"{datetime.now(UTC):%H:%M:%S} {text}", mark="[bold]>[/]")


def _confirm(ref: str, *, confirmed: bool) -> None:
    """The project's reference, typed: a yes is typed too easily."""
    if confirmed:
        return
    if not sys.stdin.isatty():
        raise UsageError(
            "this takes the project offline and changes it in place",
            hint="Pass --yes-take-it-offline if that is what you want.",
        )
    if click.prompt(f"Type {ref} to go on", default="", show_default=False, err=True) != ref:
        raise UsageError("nothing was changed")


def _detach(context: Context, database: str) -> None:
    """Drop our slot. A database that does not answer keeps it, and the platform will say so."""
    try:
        address = context.address(database)
        with closing(connect(address)) as connection, translated(address):
            Slot(connection, slot_name(context, database), PUBLICATIONS).drop()
    except PgkeepError as exc:
        context.warn(f"the slot was not looked for: {exc.message}")


def _over(context: Context, database: str, ref: str, progress: Progress, path: Path) -> ExitCode:
    with suppress(OSError):
        path.unlink(missing_ok=True)
    follow = f"pgkeep backup {database} --read-all, then: pgkeep capture {database}"
    if context.as_json:
        context.answer({"project": ref, "restored_to": str(progress.wish), "next": follow})
    else:
        context.out.print(f"[bold green]restored[/] in place to {progress.wish}")
        context.out.print(f"next: [bold]{escape(follow)}[/] (the keeper does both by itself)")
    return ExitCode.DONE
