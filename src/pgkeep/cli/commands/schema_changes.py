"""pgkeep list --schema-changes: when, by whom and how the schema was changed."""

from __future__ import annotations

from collections.abc import Iterator

from rich.markup import escape

from pgkeep.capture.history import SchemaChange, schema_changes
from pgkeep.cli import words
from pgkeep.cli.context import Context
from pgkeep.errors import ExitCode, PgkeepError
from pgkeep.repository.journal import Journal, SealedSegment, SegmentName, runs
from pgkeep.repository.repository import Repository
from pgkeep.sealing import X25519Identity, load_epoch_of

_LONGEST_STATEMENT = 300


def list_schema_changes(context: Context, database: str | None) -> ExitCode:
    """Oldest first. Only segments whose names tell of a schema change are opened."""
    repositories = context.repositories()
    names = {one for repository in repositories for one in repository.databases()}
    databases = [database] if database else sorted(names)
    found = {name: list(_Reader(context, name, repositories).changes()) for name in databases}
    if context.as_json:
        context.answer(
            [_document(name, change) for name, changes in found.items() for change in changes]
        )
    else:
        _print(context, found)
    return ExitCode.ATTENTION if context.needs_attention else ExitCode.DONE


class _Reader:
    """The journal of one database, from whichever repository gives a segment."""

    def __init__(
        self, context: Context, database: str, repositories: tuple[Repository, ...]
    ) -> None:
        self._context = context
        self._database = database
        self._repositories = repositories
        self._epochs: dict[str, X25519Identity] = {}

    def changes(self) -> Iterator[SchemaChange]:
        where: dict[str, tuple[SegmentName, list[Repository]]] = {}
        for repository in self._repositories:
            try:
                names = list(Journal(repository.store, self._database).names())
            except PgkeepError as exc:  # the others may know as much
                self._context.notice(exc)
                continue
            for name in names:
                where.setdefault(name.path, (name, []))[1].append(repository)
        # What leads nowhere, since a capture was killed, is told of by what goes on instead.
        there = [one for run in runs(name for name, _ in where.values()) for one in run.segments]
        for name in (one for one in there if one.changes_schema):
            repositories = where[name.path][1]
            sealed = self._read(name, repositories)
            if sealed is not None:
                epoch = self._epoch(sealed.head.epoch, repositories)
                yield from schema_changes(sealed.frames([epoch]))

    def _read(self, name: SegmentName, repositories: list[Repository]) -> SealedSegment | None:
        problem: PgkeepError | None = None
        for repository in repositories:
            try:
                trusted = self._context.trusted(repository)
                return Journal(repository.store, self._database).read(name, trusted)
            except PgkeepError as exc:
                problem = exc
        if problem is not None:
            self._context.notice(problem)
        return None

    def _epoch(self, epoch: str, repositories: list[Repository]) -> X25519Identity:
        if epoch not in self._epochs:
            sealed = repositories[0].sealed_epoch_key(epoch)
            key = self._context.open_epoch_key(sealed, f"the journal of {self._database!r}")
            self._epochs[epoch] = load_epoch_of(epoch, key)
        return self._epochs[epoch]


def _document(database: str, change: SchemaChange) -> dict[str, object]:
    return {
        "database": database,
        "at": change.at.isoformat(),
        "role": change.role,
        "transaction": change.transaction,
        "tag": change.tag,
        "statement": change.statement,
        "objects": list(change.objects),
    }


def _print(context: Context, found: dict[str, list[SchemaChange]]) -> None:
    for database, changes in found.items():
        context.out.print(f"[bold cyan]{escape(database)}[/]")
        for one in changes:
            context.out.print(
                f"  {words.moment(one.at)}  {escape(one.role)}  transaction {one.transaction}"
                f"  [bold]{escape(_short(one))}[/]"
            )
        if not changes:
            context.out.print("  [dim]no schema change was captured[/]")


def _short(change: SchemaChange) -> str:
    if not change.tag:
        return "noticed: the catalog is another one, and no statement was seen"
    text = " ".join(change.statement.split())
    if ";" in text.rstrip(";") or not text:  # many at once: what this one did
        text = f"{change.tag} {', '.join(change.objects)}"
    return text if len(text) <= _LONGEST_STATEMENT else text[: _LONGEST_STATEMENT - 1] + "…"
