"""pgkeep capture: keep every change, so that every second can be restored."""

from __future__ import annotations

import re
import sys
import threading
import time
from datetime import timedelta

import rich_click as click
from rich.console import Console
from rich.markup import escape

from pgkeep.backup.backup import back_up
from pgkeep.capture.beginning import Begun, look, made, remove
from pgkeep.capture.capture import Captured, CaptureRequest
from pgkeep.capture.follow import Listener, follow
from pgkeep.capture.setup import Setup
from pgkeep.cli import words
from pgkeep.cli.backing_up import backup_request
from pgkeep.cli.context import Context
from pgkeep.cli.options import command_options, refuse_together
from pgkeep.errors import AuthenticationFailed, ExitCode, PgkeepError, UsageError
from pgkeep.events import Silent
from pgkeep.model import Kind, Tier
from pgkeep.repository.journal import Journal, runs
from pgkeep.repository.repository import merge_listings
from pgkeep.repository.windows import owed

_SETTLE_SECONDS = 3.0
_AGAIN_SECONDS = 30.0

_LESS_EXACT = (
    "this role may not make event triggers and publications for all tables: changes are read with"
    " test_decoding. When a table is altered, what can be restored exactly ends at the look before,"
    " and goes on with a new backup"
)


@click.command("capture")
@click.argument("database")
@click.option("--dry-run", is_flag=True, help="Show what would be made in the database.")
@click.option("--remove", "take_away", is_flag=True, help="Take all of it out of the database.")
@click.option("--once", is_flag=True, help="Keep what is waiting, and end.")
@click.option(
    "--yes",
    is_flag=True,
    help="Do not ask before something is made or removed (only a terminal is asked).",
)
@command_options()
def capture_command(
    context: Context, database: str, dry_run: bool, take_away: bool, once: bool, yes: bool
) -> ExitCode:
    """Keep every change of DATABASE in the journal, in every repository, until interrupted.

    Needs a role that may read replication slots. If it may make publications for all tables and
    event triggers as well (a superuser, or `postgres` on Supabase), schema changes are captured the
    moment they commit; if not, they are noticed at the next look.
    """
    refuse_together(once, take_away, "--once and --remove")
    settings = context.config.capture
    request = capture_request(context, database)
    if take_away:
        return _remove(context, request, ask=not yes, dry_run=dry_run)
    setup = look(request)
    if dry_run or not setup.is_complete:
        _show_setup(context, request, setup, whole=dry_run)
    if dry_run:
        if context.as_json:
            context.answer(_setup_document(request, setup))
        return ExitCode.DONE
    if not setup.is_complete:
        _confirm("Make this in the database?", ask=not yes)
    elif not context.as_json:
        _show_less_exact(setup, context.err)  # why it ends with 3
    with context.reporter() as reporter:
        backups = _Backups(context, database, background=not once) if settings.backups else None
        told = _Telling(context, backups)
        try:
            follow(
                request,
                Listener(told.begun, told.captured, backups.may_connect if backups else _nothing),
                reporter,
                poll_seconds=settings.poll_seconds,
                until_caught_up=once,
            )
            if once and backups is not None:
                backups.make_what_is_wanted()
        finally:
            request.copies.close()
            if backups is not None:
                backups.end()
    if once:
        told.answer()
    attention = told.needs_attention or request.copies.behind
    return ExitCode.ATTENTION if attention else ExitCode.DONE


def capture_request(context: Context, database: str) -> CaptureRequest:
    """What the configuration says of capturing a database."""
    settings = context.config.capture
    return CaptureRequest(
        database=database,
        address=context.address(database),
        slot=slot_name(context, database),
        copies=context.journal_copies(database),
        recipients=context.recipients(),
        keys=context.keys,
        now=context.now,
        heartbeat=timedelta(seconds=settings.heartbeat_seconds),
        slot_limit_bytes=int(settings.slot_limit),
        gpg_home=context.gpg_home,
        plugin=settings.plugin or "",
    )


def slot_name(context: Context, database: str) -> str:
    """The slot of a database: as configured, else after its name."""
    return context.config.capture.slot or f"pgkeep_{re.sub('[^a-z0-9_]', '_', database)}"[:63]


def _nothing() -> None:
    pass


def _confirm(question: str, *, ask: bool) -> None:
    """Only a person at a terminal is asked."""
    if ask and sys.stdin.isatty() and not click.confirm(question, err=True):
        raise UsageError("nothing was changed", hint="Pass --yes to be asked no more.")


def _show_setup(context: Context, request: CaptureRequest, setup: Setup, *, whole: bool) -> None:
    """What will be made: `whole`, which is then the answer that was asked for, or the first line of
    each statement (the functions are long)."""
    if context.as_json:
        return
    to = context.out if whole else context.err
    to.print(f"in {escape(str(request.address))}:")
    for statement in setup.statements:
        first, _, rest = statement.strip().partition("\n")
        shown = f"{first}\n{rest}" if whole and rest else f"{first} ..." if rest else first
        to.print(f"  {escape(shown)};", style="dim")
    if setup.slot is None or setup.slot.lost:
        to.print(f"  a replication slot {escape(request.slot)!r} ({setup.plugin})", style="dim")
    if setup.is_complete:
        to.print("  everything is there", style="dim")
    _show_less_exact(setup, to)


def _show_less_exact(setup: Setup, to: Console) -> None:
    if setup.is_less_exact:
        to.print(f"[yellow]![/] {_LESS_EXACT}")
    for name, owner in setup.of_others.items():
        to.print(
            f"[yellow]![/] table {escape(str(name))} belongs to {escape(owner)}, of which this role"
            " is no member: its inserts are captured, its updates and deletes are only in backups"
            f" (GRANT {escape(owner)} TO the role, or set capture.plugin to test_decoding)"
        )
    for name in setup.without_identity:
        if name in setup.of_others:
            continue
        to.print(
            f"[yellow]![/] table {escape(str(name))} has no primary key: its inserts are captured,"
            " its updates and deletes are only in backups"
        )


def _setup_document(request: CaptureRequest, setup: Setup) -> dict[str, object]:
    return {
        "dry_run": True,
        "database": request.database,
        "complete": setup.is_complete,
        "statements": [statement.strip() for statement in setup.statements],
        "slot": request.slot,
        "plugin": setup.plugin,
        "less_exact": setup.is_less_exact,
        "makes_slot": setup.slot is None or setup.slot.lost,
        "without_identity": [str(name) for name in setup.without_identity],
        "of_others": {str(name): owner for name, owner in setup.of_others.items()},
    }


def _remove(context: Context, request: CaptureRequest, *, ask: bool, dry_run: bool) -> ExitCode:
    if dry_run:
        found = made(request)
    else:
        _confirm(f"Stop capturing {request.database!r} and remove slot {request.slot!r}?", ask=ask)
        found = remove(request)
    if context.as_json:
        context.answer(
            {
                "dry_run": dry_run,
                "slot": request.slot,
                "found": list(found.in_words),
                "removed": bool(found.in_words) and not dry_run,
                "needed_by": list(found.needed_by),
            }
        )
    state = "would be removed" if dry_run else "removed"
    gone = f"{state}: {', '.join(found.in_words)}" if found.in_words else "nothing is there"
    context.remark(
        f"slot {request.slot}: {gone}; the journal stays in the repositories", mark="[green]✓[/]"
    )
    if found.publishing and found.needed_by:
        context.remark(
            "the publications, event triggers and schema pgkeep stay: another capture needs them"
            f" (slot {', '.join(found.needed_by)})",
            mark="[yellow]![/]",
        )
    return ExitCode.DONE


class _Telling:
    """What a person sees, and what has to follow."""

    def __init__(self, context: Context, backups: _Backups | None) -> None:
        self._context = context
        self._backups = backups
        self._last_told = 0.0
        self._transactions = self._changes = self._segments = self._schema_changes = 0
        self._new_chain = False
        self._latest: Captured | None = None
        self.needs_attention = False

    def begun(self, begun: Begun) -> None:
        if begun.without_identity:
            self.needs_attention = True
        self._new_chain = self._new_chain or begun.is_new_chain
        if self._backups is not None:
            self._backups.want_what_is_owed()

    def captured(self, captured: Captured) -> None:
        self._latest = captured
        self._transactions += captured.transactions
        self._changes += captured.changes
        self._segments += captured.segments
        self._schema_changes += captured.schema_changes
        if captured.schema_changes and self._backups is not None:
            self._backups.want(Kind.SCHEMA)
            self._backups.want(Kind.FULL)
        if time.monotonic() - self._last_told >= 10 or captured.schema_changes:
            self._tell(captured)

    def answer(self) -> None:
        """The result of --once."""
        latest = self._latest
        assert latest is not None
        if self._context.as_json:
            self._context.answer(
                {
                    "transactions": self._transactions,
                    "changes": self._changes,
                    "schema_changes": self._schema_changes,
                    "segments": self._segments,
                    "new_chain": self._new_chain,
                    "covered": latest.covered.isoformat(),
                    "behind_seconds": round(latest.behind.total_seconds(), 3),
                    "slot_bytes": latest.retained_bytes,
                    "slot_limit_bytes": latest.limit_bytes,
                }
            )

    def _tell(self, captured: Captured) -> None:
        self._last_told = time.monotonic()
        if self._context.quiet or self._context.as_json:
            return
        limit = captured.limit_bytes
        share = f" ({captured.retained_bytes / limit:.0%} of the limit)" if limit else ""
        schema = f", [cyan]{captured.schema_changes} schema[/]" if captured.schema_changes else ""
        self._context.err.print(
            f"[dim]{captured.covered:%H:%M:%S}[/] kept to here,"
            f" {captured.behind.total_seconds():.1f} s behind;"
            f" {words.count(self._transactions, 'transaction')},"
            f" {words.count(self._changes, 'change')}{schema};"
            f" the slot holds {words.size(captured.retained_bytes)}{share}"
        )


class _Backups:
    """Backups that capture asks for, in a thread of their own: the slot is read meanwhile.

    Not in the background, they are made when `make_what_is_wanted` is called.
    """

    def __init__(self, context: Context, database: str, *, background: bool) -> None:
        self._context = context
        self._database = database
        self._background = background
        self._wanted: dict[Kind, None] = {}
        self._changed = threading.Condition()
        self._ended = False
        self._refused: AuthenticationFailed | None = None
        self._thread: threading.Thread | None = None

    def may_connect(self) -> None:
        """Raise what the server said, if it refused the login of a backup: platforms ban an
        address after two. What captures may go on as long as its own session lives."""
        if self._refused is not None:
            raise self._refused

    def want(self, kind: Kind) -> None:
        """Make one soon; what is wanted twice is made once."""
        with self._changed:
            self._wanted[kind] = None
            if self._thread is None and self._background:
                self._thread = threading.Thread(target=self._run, daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def want_what_is_owed(self) -> None:
        """What the journal waits for; a capture that was killed may have waited for it too."""
        context, database = self._context, self._database
        try:
            repositories = context.repositories()
            names = [name for one in repositories for name in Journal(one.store, database).names()]
            listings = context.listings(repositories, database)
        except PgkeepError as exc:
            context.warn(f"whether a backup is due could not be found out: {exc.message}")
            return
        for kind in owed(merge_listings(tuple(listings.values())).backups, runs(names)):
            self.want(kind)

    def make_what_is_wanted(self) -> None:
        """Wait until all are made; the first error is raised."""
        while kind := self._next():
            self._make(kind)

    def end(self) -> None:
        """Begin no more."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def _next(self) -> Kind | None:
        with self._changed:
            for kind in (
                Kind.SCHEMA,
                Kind.FULL,
            ):  # the small one first: schema changes lose nothing
                if kind in self._wanted:
                    del self._wanted[kind]
                    return kind
        return None

    def _run(self) -> None:
        pause = _SETTLE_SECONDS  # migrations come in many statements
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._ended or bool(self._wanted))
                if self._changed.wait_for(lambda: self._ended, pause):
                    return
            pause = _SETTLE_SECONDS
            kind = self._next()
            if kind is None:
                continue
            try:
                self._make(kind)
            except AuthenticationFailed as exc:
                self._refused = exc
                self._context.warn(
                    f"no more backups: {exc.message}. Capture goes on as long as its session lives"
                )
                return
            except PgkeepError as exc:
                self._context.warn(f"a {kind} backup has to wait: {exc.message}")
                pause = _AGAIN_SECONDS
                with self._changed:
                    self._wanted.setdefault(kind)

    def _make(self, kind: Kind) -> None:
        context = self._context
        tier = Tier.SCHEMA if kind is Kind.SCHEMA else Tier.DAILY
        result = back_up(backup_request(context, self._database, kind, tier), Silent())
        if not context.quiet:
            context.remark(f"{kind} backup {result.manifest.backup}", mark="[green]✓[/]")
