"""What the configuration says of a backup, for every command that makes one."""

from __future__ import annotations

from pgkeep.backup.backup import BackupRequest, FileSource
from pgkeep.cli.context import Context
from pgkeep.config import resolve
from pgkeep.errors import ConfigurationError
from pgkeep.model import Kind, Tier
from pgkeep.pacing import Pace
from pgkeep.platforms.addresses import recognise
from pgkeep.platforms.file_services import FileService, RestService, S3Service
from pgkeep.repository.ledger import Ledger


def file_source(context: Context, database: str) -> FileSource | None:
    """Where the files beside a database are, if they are to be kept."""
    settings = context.config.database(database).files
    service = file_service(context, database)
    return None if service is None else FileSource(service, settings.buckets, settings.jobs)


def file_service(context: Context, database: str) -> FileService | None:
    """The storage of a database's files, as configured; None if none is."""
    settings = context.config.database(database).files
    if not settings.is_wanted:
        return None
    url = settings.url or _url_of_project(context, database)
    pace = Pace(int(settings.limit) if settings.limit else None)
    what = f"of the files of database {database!r}"
    if settings.key is not None:
        return RestService(url, resolve(settings.key, f"the key {what}"), pace=pace)
    if settings.access_key_id is None or settings.secret_access_key is None:
        raise ConfigurationError(f"databases.{database}.files has one half of a pair of S3 keys")
    keys = (
        resolve(settings.access_key_id, f"the S3 key {what}"),
        resolve(settings.secret_access_key, f"the secret S3 key {what}"),
    )
    return S3Service(url, keys, settings.region, pace=pace)


def _url_of_project(context: Context, database: str) -> str:
    project = recognise(context.address(database))
    if project is None or not project.project:
        raise ConfigurationError(
            f"where the files of database {database!r} are is not known",
            hint=f'Add url = "https://REF.supabase.co" to [databases.{database}.files].',
        )
    return f"https://{project.project}.supabase.co"


def backup_request(
    context: Context,
    database: str,
    kind: Kind,
    tier: Tier,
    *,
    jobs: int | None = None,
    read_everything: bool = False,
    with_files: bool = True,
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
        files=file_source(context, database) if with_files else None,
        ledger=str(Ledger(context.config.state_dir).head() or ""),
    )
