"""Backups in a bucket with Object Lock: no object is used again whose lock ends too early."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from comparison import load_statements
from conftest import Workbench
from failures import SMALL_SHOP, configure
from object_servers import ACCESS_KEY, SECRET_KEY, S3Server
from pgkeep.cli.context import Context


@pytest.fixture
def shop(workbench: Workbench, new_database: Callable[[], str]) -> None:
    """A small shop that is read whole only if it must be."""
    url = new_database()
    load_statements(url, SMALL_SHOP)
    workbench.init(url)
    workbench.monkeypatch.setenv("STORE_SECRET", SECRET_KEY)
    configure(workbench, "[backup]", "part_pages = 16", "full_read_days = 1000")


def add_bucket(workbench: Workbench, server: S3Server, days: int, *lines: str) -> str:
    """A second repository, in a bucket that locks for so many days; the bucket's name."""
    name = server.new_bucket(object_lock=True)
    if days:
        server.client.put_object_lock_configuration(
            Bucket=name,
            ObjectLockConfiguration={
                "ObjectLockEnabled": "Enabled",
                "Rule": {"DefaultRetention": {"Mode": "COMPLIANCE", "Days": days}},
            },
        )
    configure(
        workbench, "[repositories.s3]", f'url = "s3://{name}/shops"', *lines,
        f'endpoint = "{server.endpoint}"', f'access_key_id = "{ACCESS_KEY}"',
        'secret_access_key = { env = "STORE_SECRET" }',
    )  # fmt: skip
    return name


def reused(workbench: Workbench) -> int:
    document: Any = workbench.pgkeep("backup", "shop", "--json").document
    return int(document["parts_reused"])


def later(workbench: Workbench, days: int) -> None:
    by = timedelta(days=days)
    workbench.monkeypatch.setattr(Context, "now", staticmethod(lambda: datetime.now(UTC) + by))


def locks(server: S3Server, bucket: str) -> dict[str, datetime | None]:
    """Until when the newest version of each object is locked."""
    keys = [one["Key"] for one in server.client.list_objects_v2(Bucket=bucket)["Contents"]]
    heads = {key: server.client.head_object(Bucket=bucket, Key=key) for key in keys}
    return {key: head.get("ObjectLockRetainUntilDate") for key, head in heads.items()}


def shorten_locks(server: S3Server, bucket: str, days: int) -> None:
    """As if everything had been stored when the bucket's lock was shorter."""
    until = datetime.now(UTC) + timedelta(days=days)
    for key in locks(server, bucket):
        server.client.put_object_retention(
            Bucket=bucket, Key=key, Retention={"Mode": "COMPLIANCE", "RetainUntilDate": until}
        )


@pytest.mark.usefixtures("shop")
def test_objects_are_used_again_until_their_lock_fades(
    workbench: Workbench, moto: S3Server
) -> None:
    add_bucket(workbench, moto, 60)
    assert reused(workbench) == 0
    later(workbench, 29)
    assert reused(workbench) > 0
    later(workbench, 31)
    assert reused(workbench) == 0


@pytest.mark.usefixtures("shop")
def test_protect_days_say_for_how_long(workbench: Workbench, moto: S3Server) -> None:
    add_bucket(workbench, moto, 60, "protect_days = 9")
    assert reused(workbench) == 0
    later(workbench, 50)
    assert reused(workbench) > 0
    later(workbench, 52)
    assert reused(workbench) == 0


@pytest.mark.usefixtures("shop")
def test_what_was_locked_for_too_short_is_stored_anew(workbench: Workbench, moto: S3Server) -> None:
    bucket = add_bucket(workbench, moto, 60)
    assert reused(workbench) == 0
    assert reused(workbench) > 0
    shorten_locks(moto, bucket, 20)
    assert reused(workbench) == 0
    month = datetime.now(UTC) + timedelta(days=30)
    lasting = {
        f"shops/{path.relative_to(workbench.repository)}"
        for path in (workbench.repository / "keys").iterdir()
    } | {"shops/repo.json", "shops/RESTORE.txt"}
    found = locks(moto, bucket)
    for name in lasting:
        until = found[name]
        assert until is not None, name
        assert until > month, name
    assert reused(workbench) > 0


@pytest.mark.usefixtures("shop")
@pytest.mark.parametrize(
    ("days", "words"),
    [(0, "and nothing is locked there"), (30, "every backup stores everything anew"), (31, "")],
)
def test_a_lock_that_is_too_short_for_what_is_wanted_is_told(
    workbench: Workbench, moto: S3Server, days: int, words: str
) -> None:
    add_bucket(workbench, moto, days, "protect_days = 30")
    assert words in workbench.pgkeep("doctor", "--offline", expect=3 if words else 0).out
    assert reused(workbench) == 0
    assert (reused(workbench) > 0) == (days != 30)
