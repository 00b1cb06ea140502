"""pgkeep schedule: when what runs next, or the same for other schedulers."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import rich_click as click
from pydantic import BaseModel
from rich.markup import escape
from rich.table import Table

from pgkeep.cli.context import Context
from pgkeep.cli.options import command_options
from pgkeep.config import Config, SecretReference
from pgkeep.errors import ExitCode, UsageError
from pgkeep.keeper.schedule import Job, Past, plan_jobs, upcoming
from pgkeep.keeper.state import KeeperState, StateFile
from pgkeep.keeper.units import FORMS, Files, Host
from pgkeep.repository.hostkeys import write_private


@click.command("schedule")
@click.option("--systemd", "form", flag_value="systemd", help="Write services and timers.")
@click.option("--cron", "form", flag_value="cron", help="Write lines for a crontab.")
@click.option("--github-actions", "form", flag_value="github-actions", help="Write a workflow.")
@click.option("--kubernetes", "form", flag_value="kubernetes", help="Write cron jobs.")
@click.option(
    "--output", type=click.Path(path_type=Path, file_okay=False), metavar="FOLDER",
    help="Where to write the files.  [default: to standard output]",
)  # fmt: skip
@command_options()
def schedule_command(context: Context, form: str | None, output: Path | None) -> ExitCode:
    """Show what `pgkeep run` does next, or write the same plan for those who want no daemon."""
    if output is not None and form is None:
        raise UsageError("--output is for --systemd, --cron, --github-actions or --kubernetes")
    jobs = plan_jobs(context.config)
    if form is not None:
        _write(context, FORMS[form](jobs, _host(context.config)), output)
        return ExitCode.DONE
    now = context.now()
    state = StateFile(context.config.state_dir).load(now)
    plan = upcoming(jobs, now)
    if context.as_json:
        context.answer([_document(moment, job, state) for moment, job in plan])
    else:
        _show(context, plan, state)
    return ExitCode.DONE


def _show(context: Context, plan: tuple[tuple[datetime, Job], ...], state: KeeperState) -> None:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for heading in ("next", "", "last success"):
        table.add_column(heading, no_wrap=True)
    table.add_column("what")  # the one that may be folded: times and names are whole on 80 columns
    for moment, job in plan:
        past = state.pasts.get(job.name, Past())
        last = f"{past.succeeded:%Y-%m-%d %H:%M} UTC" if past.succeeded else "[dim]-[/]"
        failed = f" [red]failed {past.failures} times since[/]" if past.failures else ""
        table.add_row(
            f"{moment:%a %Y-%m-%d %H:%M %Z}", f"[cyan]{escape(job.name)}[/]",
            last + failed,
            escape(f"pgkeep {' '.join(job.arguments)}") if job.arguments else "[dim]a reminder[/]",
        )  # fmt: skip
    context.out.print(table)


def _document(moment: datetime, job: Job, state: KeeperState) -> dict[str, object]:
    past = state.pasts.get(job.name, Past())
    return {
        "job": job.name,
        "database": job.database or None,
        "next": moment.astimezone(UTC).isoformat(),
        "cron": job.cron,
        "zone": job.zone,
        "command": list(job.arguments),
        "succeeded": past.succeeded.isoformat() if past.succeeded else None,
        "failures": past.failures,
    }


def _host(config: Config) -> Host:
    program = shutil.which("pgkeep")
    beside = Path(sys.executable).with_name("pgkeep")
    found = str(beside) if beside.exists() else program or "pgkeep"
    origin = config.origin or Path("pgkeep.toml")
    text = origin.read_text(encoding="utf-8") if origin.exists() else ""
    return Host(
        (found,), origin.resolve(), config.state_dir, tuple(sorted(set(_variables(config)))), text
    )


def _variables(model: BaseModel) -> Iterator[str]:
    """The environment variables that a configuration refers to."""
    if isinstance(model, SecretReference) and model.env:
        yield model.env
    for name in type(model).model_fields:
        value = getattr(model, name)
        inner = value.values() if isinstance(value, dict) else [value]
        for one in inner:
            for item in one if isinstance(one, tuple) else (one,):
                if isinstance(item, BaseModel):
                    yield from _variables(item)


def _write(context: Context, files: Files, output: Path | None) -> None:
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            write_private(output / name, text.encode())
            (output / name).chmod(0o644)
    if context.as_json:
        context.answer(dict(files))
    elif output is None:
        for name, text in files.items():
            header = f"# --- {name}\n" if len(files) > 1 else ""
            context.out.print(header + text, end="", markup=False)
    else:
        for name in files:
            context.out.print(f"[green]✓[/] {escape(str(output / name))}")
