"""What the configuration says of a backup, for every command that makes one."""

from __future__ import annotations

from pgkeep.backup.backup import BackupRequest
from pgkeep.cli.context import Context
from pgkeep.model import Kind, Tier
from pgkeep.repository.ledger import Ledger


def backup_request(
    context: Context,
    database: str,
    kind: Kind,
    tier: Tier,
    *,
    jobs: int | None = None,
    read_everything: bool = False,
) -> BackupRequest:
    """A backup of a configured database into all repositories for its kind."""
    return BackupRequest(
        database=database,
        address=context.address(database),
        kind=kind,
        tier=tier,
        copies=context.copies(kind),
        recipients=context.recipients(),
        keys=context.keys,
        choose_client=context.choose_client,
        options=context.config.backup,
        jobs=context.jobs(jobs, context.config.database(database).jobs),
        now=context.now,
        read_everything=read_everything,
        gpg_home=context.gpg_home,
        ledger=str(Ledger(context.config.state_dir).head() or ""),
    )
