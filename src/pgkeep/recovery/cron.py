"""Jobs of pg_cron, scheduled anew but switched off: a copy must not send mails by itself."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from typing import LiteralString

from pgkeep.errors import UsageError
from pgkeep.model import Contents
from pgkeep.platforms.private import Job, load_jobs
from pgkeep.postgres.address import Address
from pgkeep.postgres.session import Connection, connect, translated
from pgkeep.recovery import presence
from pgkeep.recovery.load import Sealed

_SCHEDULE: LiteralString = "SELECT cron.schedule(%s, %s, %s)"
_SCHEDULE_UNNAMED: LiteralString = "SELECT cron.schedule(%s, %s)"
_SCHEDULE_FOR: LiteralString = "SELECT cron.schedule_in_database(%s, %s, %s, %s, %s, false)"
_SWITCH_OFF: LiteralString = "SELECT cron.alter_job(job_id := %s, active := false)"
_SWITCH_ON: LiteralString = "SELECT cron.alter_job(job_id := %s, active := true)"

_FIND: LiteralString = """
    SELECT jobid FROM cron.job
     WHERE NOT active AND command = %s AND schedule = %s
       AND jobname IS NOT DISTINCT FROM %s
     ORDER BY jobid LIMIT 1"""


def schedule(connection: Connection, job: Job, *, source_database: str) -> None:
    """Make a job, switched off in the very transaction that makes it."""
    here = connection.execute(
        "SELECT pg_catalog.current_database()::text, current_user::text"
    ).fetchone()
    assert here is not None
    database = here[0] if job.database == source_database else job.database
    with connection.transaction():
        if (database, job.username) != tuple(here):
            name = job.name or f"job {job.id}"
            values = (name, job.schedule, job.command, database, job.username)
            connection.execute(_SCHEDULE_FOR, values)
            return
        if job.name is None:
            made = connection.execute(_SCHEDULE_UNNAMED, (job.schedule, job.command))
        else:
            made = connection.execute(_SCHEDULE, (job.name, job.schedule, job.command))
        row = made.fetchone()
        assert row is not None
        connection.execute(_SWITCH_OFF, (row[0],))


@dataclass(frozen=True, slots=True)
class Resumed:
    """How many jobs were switched on, and which are not there, or not as they were."""

    count: int
    absent: tuple[Job, ...]


def resume(target: Address, contents: Contents, sealed: Sealed) -> Resumed:
    """Switch on, in a project that was restored, the jobs that were active in the backup."""
    hosting = contents.hosting
    if hosting is None or hosting.jobs is None:
        raise UsageError(
            "the backup holds no jobs of cron",
            hint="Run pgkeep show to see what it holds, and choose another with --backup.",
        )
    jobs = load_jobs(b"".join(sealed.open(hosting.jobs)))
    active = tuple(job for job in jobs if job.active)
    with closing(connect(target)) as connection, translated(target):
        if "pg_cron" not in presence.extensions(connection):
            return Resumed(0, active)
        return _switch_on(connection, active)


def _switch_on(connection: Connection, jobs: Iterable[Job]) -> Resumed:
    count, absent = 0, []
    with connection.transaction():
        for job in jobs:
            row = connection.execute(_FIND, (job.command, job.schedule, job.name)).fetchone()
            if row is None:
                absent.append(job)
                continue
            connection.execute(_SWITCH_ON, (row[0],))
            count += 1
    return Resumed(count, tuple(absent))
