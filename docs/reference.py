"""Writes docs/reference.md from the code: `make docs`. A test keeps the two the same."""

from __future__ import annotations

import ast
import inspect
import signal
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import click
from pydantic import BaseModel

from pgkeep import config, errors
from pgkeep.cli.approving import APPROVAL_VARIABLE, CODE_VARIABLE
from pgkeep.cli.context import IDENTITY_VARIABLE, PASSPHRASE_VARIABLE
from pgkeep.cli.enrolling import NEW_APPROVAL_VARIABLE, NEW_CODE_VARIABLE
from pgkeep.cli.examples import EXAMPLES
from pgkeep.cli.main import SIGNALLED, pgkeep
from pgkeep.keeper.metrics import METRICS

TARGET = Path(__file__).with_name("reference.md")

_CODES = {
    errors.ExitCode.DONE: "done, and whole",
    errors.ExitCode.FAILED: "failed: what the command promises did not come about",
    errors.ExitCode.USAGE: "wrong usage or configuration; nothing was touched",
    errors.ExitCode.ATTENTION: "done, but something needs attention (it is said what)",
}

_VARIABLES = {
    config.CONFIG_VARIABLE: "the configuration file, where `--config` names none",
    IDENTITY_VARIABLE: "a key that opens backups, where `--identity` names none",
    PASSPHRASE_VARIABLE: "the passphrase of that key, or of the gpg key; asked for on a terminal"
    " otherwise",
    CODE_VARIABLE: "a code of a second factor, or `file:PATH`, or `command:PROGRAM ARGUMENTS`;"
    " asked for on a terminal otherwise",
    APPROVAL_VARIABLE: "the path of an operator's signature over a challenge, instead of a code",
    NEW_CODE_VARIABLE: "for `pgkeep factor enroll`: a code of the app that is being enrolled",
    NEW_APPROVAL_VARIABLE: "for `pgkeep factor enroll --ssh-key`: the path of a signature by that"
    " key",
}


def text() -> str:
    """The whole page."""
    lines = ["# Reference", "", "Made from the code by `make docs`; do not edit.", ""]
    for part in (
        _commands(),
        _settings(),
        _variables(),
        _metrics(),
        _exit_codes(),
        _errors(),
    ):
        lines += [*part, ""]
    return "\n".join(lines).rstrip() + "\n"


def _commands() -> Iterator[str]:
    yield "## Commands"
    for name in sorted(pgkeep.list_commands(click.Context(pgkeep))):
        command = pgkeep.get_command(click.Context(pgkeep), name)
        assert command is not None
        context = click.Context(command, info_name=f"pgkeep {name}")
        usage = " ".join(command.collect_usage_pieces(context))
        yield from ("", f"### pgkeep {name}", "", f"`pgkeep {name} {usage}`", "")
        yield inspect.cleandoc(command.help or "")
        yield from ("", "```console")
        yield from (f"$ {typed}   # {what}" for typed, what in EXAMPLES[name])
        yield "```"
        yield from ("", "| option | meaning |", "|---|---|")
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                record = parameter.get_help_record(context)
                if record is not None:
                    yield f"| `{_cell(record[0])}` | {_cell(record[1])} |"


def _settings() -> Iterator[str]:
    yield "## Settings"
    tables = (
        ("(top)", config.Config),
        ("[databases.NAME]", config.DatabaseConfig),
        ("[[databases.NAME.checks]]", config.CheckConfig),
        ("[databases.NAME.objectives]", config.ObjectivesConfig),
        ("[databases.NAME.recovery]", config.RecoveryConfig),
        ("[databases.NAME.drill]", config.DatabaseDrillConfig),
        ("[drills]", config.DrillConfig),
        ("[repositories.NAME]", config.RepositoryConfig),
        ("[encryption]", config.EncryptionConfig),
        ("[backup]", config.BackupConfig),
        ("[retention]", config.RetentionConfig),
        ("[schedule]", config.ScheduleConfig),
        ("[databases.NAME.schedule]", config.DatabaseScheduleConfig),
        ("[keeper]", config.KeeperConfig),
        ("[watch]", config.WatchConfig),
        ("[notify]", config.NotifyConfig),
        ("[notify.mail]", config.MailConfig),
        ("[notify.webhooks.NAME]", config.WebhookConfig),
        ("{ env | file | command }", config.SecretReference),
    )
    for title, model in tables:
        rows = [
            f"| `{model.model_fields[name].alias or name}` | {_default(model, name)} |"
            f" {_meaning(model, name)} |"
            for name in model.model_fields
            if not _is_table(model, name)
        ]
        yield from ("", f"`{title}`", "", "| setting | default | meaning |", "|---|---|---|", *rows)


def _is_table(model: type[BaseModel], name: str) -> bool:
    tables: dict[type[BaseModel], tuple[str, ...]] = {
        config.Config: ("databases", "drills", "repositories", "encryption", "backup", "origin",
                        "schedule", "keeper", "watch", "notify"),
        config.DatabaseConfig: ("schedule", "checks", "objectives", "recovery", "drill"),
        config.NotifyConfig: ("mail", "webhooks"),
    }  # fmt: skip
    return name in tables.get(model, ())


def _default(model: type[BaseModel], name: str) -> str:
    field = model.model_fields[name]
    if field.is_required():
        return "required"
    value = field.default
    return f"`{value}`" if isinstance(value, int | float | str) else ""


def _meaning(model: type[BaseModel], name: str) -> str:
    """The text below a setting. Read here and not by pydantic, which would do it at each start."""
    body = ast.parse(inspect.getsource(model)).body[0]
    assert isinstance(body, ast.ClassDef)
    for field, text in pairwise(body.body):
        named = isinstance(field, ast.AnnAssign) and ast.unparse(field.target) == name
        if named and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
            return _cell(str(text.value.value))
    return ""


def _metrics() -> Iterator[str]:
    yield from ("## Metrics", "", "All are gauges.", "", "| metric | labels | meaning |")
    yield "|---|---|---|"
    for one in METRICS:
        labels = ", ".join(f"`{label}`" for label in one.labels)
        yield f"| `{one.name}` | {labels} | {_cell(one.meaning)} |"


def _exit_codes() -> Iterator[str]:
    yield from ("## Exit codes", "", "| code | meaning |", "|---|---|")
    for code, meaning in _CODES.items():
        yield f"| {code.value} | {meaning} |"
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        yield f"| {SIGNALLED + number} | ended by {number.name}; nothing half-written counts |"


def _variables() -> Iterator[str]:
    yield from ("## Environment variables", "", "| variable | meaning |", "|---|---|")
    for name, meaning in _VARIABLES.items():
        yield f"| `{name}` | {meaning} |"
    yield "| AWS_..., GOOGLE_..., STORAGE_EMULATOR_HOST | as the SDKs of S3 and GCS use them |"


def _errors() -> Iterator[str]:
    yield from ("## Errors", "", "| code | exit | meaning |", "|---|---|---|")
    yield "| E000 | 1 | A defect of pgkeep. Run again with --debug and report it. |"
    kinds = [
        kind
        for _, kind in inspect.getmembers(errors, inspect.isclass)
        if issubclass(kind, errors.PgkeepError) and kind is not errors.PgkeepError
    ]
    rows = [("E004", "129, 130, 143", "A signal ended the command: run it again.")]
    for kind in kinds:
        meaning = " ".join(inspect.cleandoc(kind.__doc__ or "").split())
        rows.append((kind.code, str(kind.exit_code.value), meaning))
    for code, exit_code, meaning in sorted(rows):
        yield f"| {code} | {exit_code} | {meaning} |"


def _cell(value: str) -> str:
    return " ".join(value.split()).replace("|", "\\|")


if __name__ == "__main__":
    TARGET.write_text(text(), encoding="utf-8")
