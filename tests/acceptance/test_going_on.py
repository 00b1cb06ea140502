"""A backup that was cut off: the next one goes on where the objects already are, and is right.

The real command line is killed in the middle of a first backup; then the database changes.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from comparison import assert_same, load_statements, take_picture
from conftest import Outcome, Workbench
from failures import (
    MAIN,
    configure,
    finished,
    run_sql,
    start,
    told,
    wait_until,
    wait_until_nobody_reads,
)
from pgkeep.model import Tier
from pgkeep.repository.hostkeys import HostKeys
from pgkeep.repository.manifests import load_manifest
from pgkeep.repository.prune import prune
from pgkeep.repository.repository import Listing, Repository
from pgkeep.repository.retention import Policy
from pgkeep.stores import LocalStore

NewDatabase = Callable[[], str]

ROWS = 4000
TABLE = (
    "CREATE TABLE t (id int PRIMARY KEY, body text)",
    "ALTER TABLE t ALTER body SET STORAGE PLAIN",
    f"INSERT INTO t SELECT n, repeat(md5(n::text), 20) FROM generate_series(1, {ROWS}) n",
    "CREATE TABLE other (n int)",
    "INSERT INTO other VALUES (1)",
)
"""`t` has more than 20 parts of 16 pages."""

# Takes its time over the parts after the first few, so that there is a middle to be killed in.
DWELLS = """
import time
from pgkeep.backup.unfinished import UnfinishedBackup
real_add, added = UnfinishedBackup.add, []
def add(self, part):
    real_add(self, part)
    added.append(part)
    if len(added) >= 6:
        time.sleep(60)
UnfinishedBackup.add = add
"""
SLOW = """
import time
from pgkeep.backup.unfinished import UnfinishedBackup
real_add = UnfinishedBackup.add
def add(self, part):
    real_add(self, part)
    time.sleep(0.3)
UnfinishedBackup.add = add
"""
DIES_BEFORE_ITS_MANIFEST = """
import os, signal
from pgkeep.repository.copies import Copies
Copies.publish = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def source(workbench: Workbench, new_database: NewDatabase) -> str:
    """The database, configured: small parts, none read again at random."""
    url = new_database()
    load_statements(url, TABLE)
    workbench.init(url)
    configure(workbench, "[backup]", "part_pages = 16", "verify_share = 0")
    return url


def note_of(workbench: Workbench) -> Path:
    return workbench.state / "unfinished" / "shop"


def objects(workbench: Workbench) -> set[str]:
    return {path.name for path in workbench.repository.glob("objects/*/*")}


def noted(workbench: Workbench) -> int:
    """How many parts are noted: records, each after its length."""
    data = note_of(workbench).read_bytes() if note_of(workbench).exists() else b""
    count = at = 0
    while at + 4 <= len(data):
        at += 4 + int.from_bytes(data[at : at + 4])
        count += at <= len(data)
    return count


def cut_off(workbench: Workbench, number: signal.Signals, code: str) -> Outcome:
    """A backup that is ended when six more parts are stored; how it ended."""
    before = noted(workbench)
    process = start(workbench, "backup", "shop", "--jobs", "1", code=code + MAIN)
    wait_until(lambda: noted(workbench) >= before + 6, "some parts are stored")
    process.send_signal(number)
    return finished(process)


def killed(workbench: Workbench, source: str) -> None:
    assert cut_off(workbench, signal.SIGKILL, DWELLS).code == -signal.SIGKILL
    wait_until_nobody_reads(source)


def back_up(workbench: Workbench, *options: str) -> dict[str, int]:
    document: dict[str, int] = json.loads(
        workbench.pgkeep("backup", "shop", "--json", *options).out
    )
    return document


def restored_equals(workbench: Workbench, source: str, target: str) -> None:
    workbench.pgkeep("restore", "shop", "--target", target)
    assert_same(take_picture(source), take_picture(target))


def test_the_next_backup_uses_what_a_killed_one_stored(
    workbench: Workbench, source: str, new_database: NewDatabase
) -> None:
    killed(workbench, source)
    stored = objects(workbench)
    assert len(stored) >= 5
    result = back_up(workbench)
    assert result["parts_reused"] >= 5
    assert result["parts_read"] + result["parts_reused"] > 20
    (path,) = workbench.repository.glob("shop/*/*/*/manifest.json")
    manifest = load_manifest(path.read_bytes(), name="test")
    used = {str(item.name) for item in manifest.all_objects}
    assert len(used & stored) >= result["parts_reused"]
    assert result["bytes_stored"] < result["bytes_of_backup"]
    assert not note_of(workbench).exists(), "a published backup needs no note"
    restored_equals(workbench, source, new_database())
    assert back_up(workbench)["parts_read"] == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_next_backup_goes_on_after_a_signal(
    workbench: Workbench, source: str, new_database: NewDatabase, number: signal.Signals
) -> None:
    told(cut_off(workbench, number, SLOW), "E004", exit_code=128 + number)
    wait_until_nobody_reads(source)
    assert list((workbench.repository / "tmp").glob("*")) == []
    assert back_up(workbench)["parts_reused"] >= 5
    restored_equals(workbench, source, new_database())


CHANGES = {
    "update": ("UPDATE t SET body = 'x' WHERE id % 100 = 0",),
    "delete": ("DELETE FROM t WHERE id % 50 = 0", "VACUUM t"),
    "delete and insert": (
        "DELETE FROM t WHERE id % 50 = 0",
        "VACUUM t",
        "INSERT INTO t SELECT n * 50, 'y' FROM generate_series(1, 50) n",
    ),
    "grown": (f"INSERT INTO t SELECT n, md5(n::text) FROM generate_series({ROWS + 1}, 9000) n",),
    "truncate and the same rows": (
        "CREATE TABLE copy AS TABLE t",
        "TRUNCATE t",
        "INSERT INTO t SELECT * FROM copy ORDER BY id",
    ),
    "column added": ("ALTER TABLE t ADD COLUMN extra int DEFAULT 5",),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_changed_since_is_read_again(
    workbench: Workbench, source: str, new_database: NewDatabase, change: str
) -> None:
    killed(workbench, source)
    run_sql(source, *CHANGES[change])
    back_up(workbench)
    restored_equals(workbench, source, new_database())


def test_several_backups_that_are_killed_come_to_an_end_together(
    workbench: Workbench, source: str, new_database: NewDatabase
) -> None:
    for number in range(3):
        killed(workbench, source)
        run_sql(source, f"UPDATE t SET body = 'z' WHERE id = {1 + number * 1000}")
    assert back_up(workbench)["parts_reused"] >= 12
    restored_equals(workbench, source, new_database())


def test_a_backup_that_only_lacked_its_manifest_is_not_read_again(
    workbench: Workbench, source: str, new_database: NewDatabase
) -> None:
    process = start(workbench, "backup", "shop", code=DIES_BEFORE_ITS_MANIFEST + MAIN)
    assert finished(process).code == -signal.SIGKILL
    result = back_up(workbench)
    assert result["parts_read"] == 0
    assert result["rows"] == ROWS + 1
    restored_equals(workbench, source, new_database())


def test_an_incremental_backup_that_is_killed_is_gone_on_with(
    workbench: Workbench, source: str, new_database: NewDatabase
) -> None:
    back_up(workbench)
    run_sql(source, "UPDATE t SET body = 'w'")
    killed(workbench, source)
    result = back_up(workbench)
    assert result["parts_reused"] >= 5
    restored_equals(workbench, source, new_database())


def test_an_object_that_is_gone_is_read_again(
    workbench: Workbench, source: str, new_database: NewDatabase
) -> None:
    killed(workbench, source)
    for path in list(workbench.repository.glob("objects/*/*"))[:3]:
        path.unlink()
    assert 0 < back_up(workbench)["parts_reused"] < 6
    restored_equals(workbench, source, new_database())


def test_condemned_objects_are_not_used(
    workbench: Workbench, source: str, new_database: NewDatabase
) -> None:
    killed(workbench, source)
    repository = Repository("test", LocalStore(workbench.repository))
    policy = Policy(dict.fromkeys(Tier, timedelta(days=1000)), 1)
    now = datetime.now(UTC)
    condemned = prune(repository, lambda: Listing((), ()), policy, now).condemned_objects
    assert condemned >= 6
    assert back_up(workbench)["parts_reused"] == 0
    later = prune(repository, lambda: _listing(workbench, repository), policy, now + timedelta(2))
    assert later.deleted_objects == condemned
    restored_equals(workbench, source, new_database())


def _listing(workbench: Workbench, repository: Repository) -> Listing:
    signer = HostKeys(workbench.state).signing_key().public
    return repository.backups(lambda: [signer], "shop")


def test_read_all_uses_nothing_of_it(
    workbench: Workbench, source: str, new_database: NewDatabase
) -> None:
    killed(workbench, source)
    assert back_up(workbench, "--read-all")["parts_reused"] == 0
    restored_equals(workbench, source, new_database())


def test_the_last_full_read_is_that_of_the_killed_backup(workbench: Workbench, source: str) -> None:
    begun = datetime.now(UTC)
    killed(workbench, source)
    ended = datetime.now(UTC)
    back_up(workbench)
    repository = Repository("test", LocalStore(workbench.repository))
    (manifest,) = _listing(workbench, repository).backups
    contents = repository.contents(manifest, [HostKeys(workbench.state).index_key()])
    assert contents.full_read is not None
    assert begun < contents.full_read < ended < manifest.started


def test_a_state_folder_that_takes_no_note_is_told_and_ends_no_backup(
    workbench: Workbench, source: str
) -> None:
    (workbench.state / "unfinished").write_text("in the way")
    outcome = workbench.pgkeep("backup", "shop")
    assert "! what is stored could not be noted in the state folder: file exists" in outcome.err
