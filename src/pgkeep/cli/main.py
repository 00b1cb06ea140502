"""The entry: the one place that turns errors into messages and exit codes."""

from __future__ import annotations

import gc
import os
import resource
import signal
import sys
import traceback
from contextlib import suppress
from difflib import get_close_matches
from importlib import import_module
from typing import NoReturn

import click
import rich_click
from rich.console import Console
from rich.markup import escape

from pgkeep import __version__
from pgkeep.cli.examples import epilog
from pgkeep.cli.recording import recorded
from pgkeep.errors import ExitCode, PgkeepError, UsageError

PARENT_VARIABLE = "PGKEEP_KEEPER_PID"
SIGNALLED = 128
"""Shells answer this plus the signal's number."""


# Where each command is: what one needs is loaded only when it runs, since that takes longer than
# a small backup.
COMMANDS = {
    "demo": "demo.demo",
    "init": "init.init",
    "doctor": "doctor.doctor",
    "backup": "backup.backup",
    "list": "list.list_backups",
    "show": "show.show",
    "restore": "restore.restore_command",
    "export": "export.export_command",
    "files": "files.files_command",
    "diff": "diff.diff_command",
    "capture": "capture.capture_command",
    "status": "status.status_command",
    "drill": "drill.drill_command",
    "recover": "recover.recover_command",
    "runbook": "runbook.runbook_command",
    "sync": "sync.sync_command",
    "verify": "verify.verify_command",
    "prune": "prune.prune_command",
    "reseal": "reseal.reseal_command",
    "forget": "forget.forget",
    "policy": "policy.policy",
    "factor": "factor.factor_command",
    "checklist": "checklist.checklist_command",
    "audit": "audit.audit_command",
    "schedule": "schedule.schedule_command",
    "run": "run.run_command",
    "ledger": "ledger.ledger_command",
}


class _Commands(rich_click.RichGroup):
    """The commands by name, in the order of `COMMANDS`."""

    def list_commands(self, _: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, _: click.Context, cmd_name: str) -> click.Command | None:
        module, dot, name = COMMANDS.get(cmd_name, "").partition(".")
        if not dot:
            return None
        command: click.Command = getattr(import_module(f"pgkeep.cli.commands.{module}"), name)
        command.epilog = epilog(cmd_name)  # type: ignore[assignment]  # rich-click takes it
        return recorded(cmd_name, command)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            close = get_close_matches(args[0], COMMANDS, n=1)
            raise UsageError(
                f"no such command {args[0]!r}",
                hint=f"Did you mean pgkeep {close[0]}? pgkeep --help lists all."
                if close
                else "pgkeep --help lists all.",
            )
        return super().resolve_command(ctx, args)


GROUPS = {
    "Begin": ("demo", "init", "doctor"),
    "Keep": ("backup", "capture", "sync", "verify", "prune", "schedule", "run"),
    "Look": ("status", "list", "show", "checklist", "audit", "ledger"),
    "Get back": ("restore", "recover", "diff", "export", "files", "drill", "runbook"),
    "Keys and rights": ("reseal", "factor", "policy", "forget"),
}
_HELP = rich_click.RichHelpConfiguration(
    command_groups={
        "pgkeep": [{"name": name, "commands": list(group)} for name, group in GROUPS.items()]
    }
)


@rich_click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "rich_help_config": _HELP},
)
@rich_click.version_option(__version__, prog_name="pgkeep")
def pgkeep() -> None:
    """Backups of a PostgreSQL database, encrypted, and proven by restoring them."""


class _Ended(KeyboardInterrupt):
    """A signal that asks us to end: handled as Ctrl-C is, so that all is left in order."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def main() -> NoReturn:
    """Run the command line and exit."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:  # nohup has it ignored
            signal.signal(number, _end)
    _leave_no_core()
    if PARENT_VARIABLE in os.environ:
        import_module("pgkeep.keeper.children").end_with_parent()
    code = run(sys.argv[1:])
    _leave_no_output_behind()
    gc.freeze()  # or Python looks through all there is once more before it ends, for 0.05 s
    sys.exit(code)


def _leave_no_core() -> None:
    """No core file of ours or of a child's: secrets would be in it.

    One byte, not none: where cores are piped to a program, Linux heeds just that limit (core(5)).
    """
    hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
    limit = 1 if hard == resource.RLIM_INFINITY or hard >= 1 else 0
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (limit, limit))


def _leave_no_output_behind() -> None:
    """What could not be written was told: Python must not try and complain once more."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _end(number: int, _: object) -> NoReturn:
    raise _Ended(number)


def run(arguments: list[str]) -> int:
    """Run the command line; the exit code."""
    err = Console(stderr=True, highlight=False, soft_wrap=True)
    try:
        code: object = pgkeep.main(arguments, prog_name="pgkeep", standalone_mode=False)
        return code if isinstance(code, int) else ExitCode.DONE
    except PgkeepError as exc:
        if "--debug" in arguments:
            traceback.print_exc()
        _show(err, str(exc), exc.hint)
        return exc.exit_code
    except click.exceptions.Exit as exc:
        return exc.exit_code
    except click.ClickException as exc:
        _show(err, f"[E001] {_lower(exc.format_message())}", "Run the command with --help.")
        return ExitCode.USAGE
    except (KeyboardInterrupt, click.Abort) as exc:
        # click makes its own exception of the one that came from the signal.
        cause = exc if isinstance(exc, _Ended) else exc.__cause__ or exc.__context__
        number = cause.number if isinstance(cause, _Ended) else signal.SIGINT
        what = "interrupted" if number == signal.SIGINT else "ended"
        _show(
            err,
            f"[E004] {what} by {signal.Signals(number).name}",
            "Nothing half-written counts; run the same command again.",
        )
        return SIGNALLED + number
    except Exception as exc:
        if "--debug" in arguments:
            traceback.print_exc()
        text = (str(exc).splitlines() or [""])[0]
        _show(
            err,
            f"[E000] unexpected {type(exc).__name__}: {text}",
            "This is a defect of pgkeep: run again with --debug and report it.",
        )
        return ExitCode.FAILED


def _show(err: Console, message: str, hint: str) -> None:
    err.print(f"[bold red]error:[/] {escape(_one_line(message))}")
    if hint:
        err.print(f"[bold]HINT:[/] {escape(_one_line(hint))}")


def _one_line(text: str) -> str:
    """Names may hold line breaks and worse; a message is one line, and moves no cursor."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text.strip())


def _lower(message: str) -> str:
    text = message.splitlines()[0].rstrip(".")
    return text[:1].lower() + text[1:]
