"""Each role does its work with the rights that `pgkeep policy` prints, and nothing else.

The server enforces policies. It evaluates no conditions, so those are taken out before: that a
listing is for the folder alone is not shown here.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from comparison import assert_same, load_statements, take_picture
from conftest import Workbench
from failures import SMALL_SHOP, configure, told
from object_servers import EnforcingS3Server
from pgkeep.cli.context import Context
from pgkeep.errors import StoreAccessDenied
from pgkeep.stores import Store, StoreSettings, open_store

NewDatabase = Callable[[], str]


def denied() -> AbstractContextManager[object]:
    """What the block does is not allowed."""
    return pytest.raises(StoreAccessDenied)


class Bucket:
    """A repository in a bucket of its own, and who uses it just now."""

    def __init__(self, workbench: Workbench, server: EnforcingS3Server) -> None:
        self._workbench = workbench
        self._server = server
        self.name = server.new_bucket()
        self.url = f"s3://{self.name}/shops"
        server.client.put_bucket_versioning(
            Bucket=self.name, VersioningConfiguration={"Status": "Enabled"}
        )

    @property
    def lines(self) -> tuple[str, ...]:
        return (
            "[repositories.s3]", f'url = "{self.url}"', f'endpoint = "{self._server.endpoint}"',
            'access_key_id = { env = "KEY_ID" }', 'secret_access_key = { env = "KEY_SECRET" }',
        )  # fmt: skip

    def become(self, role: str) -> Store:
        """Go on with the key of somebody who has that role alone; their way to the bucket."""
        answer: Any = self._workbench.pgkeep("policy", role, "s3", "--json").document
        for statement in answer["policy"]["Statement"]:
            statement.pop("Condition", None)
        key, secret = self._server.new_user(answer["policy"])
        self._workbench.monkeypatch.setenv("KEY_ID", key)
        self._workbench.monkeypatch.setenv("KEY_SECRET", secret)
        settings = StoreSettings(
            endpoint=self._server.endpoint, access_key_id=key, secret_access_key=secret
        )
        return open_store(self.url, settings)

    def names(self) -> set[str]:
        found = self._server.client.list_objects_v2(Bucket=self.name)
        return {item["Key"] for item in found.get("Contents", ())}


@pytest.fixture
def shop(workbench: Workbench, new_database: NewDatabase) -> str:
    url = new_database()
    load_statements(url, SMALL_SHOP)
    workbench.init(url)
    return url


@pytest.fixture
def bucket(workbench: Workbench, shop: str, enforcing_s3: EnforcingS3Server) -> Bucket:
    made = Bucket(workbench, enforcing_s3)
    local = f'[repositories.local]\nurl = "{workbench.repository.as_uri()}"\n'
    text = workbench.config.read_text()
    workbench.config.write_text(text.replace(local, "\n".join((*made.lines, ""))))
    configure(workbench, "[retention]", "daily_days = 0.000001", "minimum = 1")
    return made


def later(workbench: Workbench, by: timedelta) -> None:
    workbench.monkeypatch.setattr(Context, "now", staticmethod(lambda: datetime.now(UTC) + by))


def test_a_writer_makes_backups_and_deletes_nothing(
    workbench: Workbench, shop: str, bucket: Bucket
) -> None:
    store = bucket.become("writer")
    assert "made a new repository" in workbench.pgkeep("backup", "shop").err
    load_statements(shop, ("CREATE TABLE later AS SELECT 1 AS x",))
    second: Any = workbench.pgkeep("backup", "shop", "--json").document
    assert second["parts_reused"] > 0
    assert "versioning: yes" in workbench.pgkeep("doctor", "--offline", expect=3).out
    before = bucket.names()
    for key in before:
        with denied():
            store.delete(key.removeprefix("shops/"))
    assert bucket.names() == before


def test_what_a_writer_writes_over_stays_as_a_version(
    workbench: Workbench, bucket: Bucket, enforcing_s3: EnforcingS3Server
) -> None:
    store = bucket.become("writer")
    workbench.pgkeep("backup", "shop")
    before = store.get("repo.json")
    store.put("repo.json", b"gone?")
    found = enforcing_s3.client.list_object_versions(Bucket=bucket.name, Prefix="shops/repo.json")
    old = [one["VersionId"] for one in found["Versions"] if not one["IsLatest"]]
    (version,) = old
    answer = enforcing_s3.client.get_object(
        Bucket=bucket.name, Key="shops/repo.json", VersionId=version
    )
    assert answer["Body"].read() == before


def test_a_reader_restores_and_writes_nothing(
    workbench: Workbench, shop: str, bucket: Bucket, new_database: NewDatabase
) -> None:
    bucket.become("writer")
    workbench.pgkeep("backup", "shop")
    store = bucket.become("reader")
    target = new_database()
    workbench.pgkeep("restore", "shop", "--target", target)
    assert_same(take_picture(shop), take_picture(target))
    workbench.pgkeep("verify", "--read", "all")
    before = bucket.names()
    with denied():
        store.put("new", b"x")
    with denied():
        store.delete("repo.json")
    error = told(workbench.pgkeep("backup", "shop", expect=None), "E063")
    assert "pgkeep policy" in error.hint
    assert bucket.names() == before


def test_a_pruner_prunes_and_touches_no_key(
    workbench: Workbench, shop: str, bucket: Bucket, new_database: NewDatabase
) -> None:
    bucket.become("writer")
    for number in range(3):
        load_statements(shop, (f"CREATE TABLE t{number} AS SELECT {number} AS x",))
        workbench.pgkeep("backup", "shop", "--tier", "daily")
    store = bucket.become("pruner")
    first: Any = workbench.pgkeep("prune", "--json").document
    assert first["s3"]["condemned_backups"] == 2
    later(workbench, timedelta(hours=25))
    bucket.become("writer")
    kept: Any = workbench.pgkeep("prune", "--json", expect=3).document
    assert kept["s3"]["deleted_backups"] == []
    assert kept["s3"]["refused"] > 0
    bucket.become("pruner")
    second: Any = workbench.pgkeep("prune", "--json").document
    assert len(second["s3"]["deleted_backups"]) == 2
    assert second["s3"]["deleted_objects"] > 0
    sealed = next(key for key in bucket.names() if key.endswith(".age"))
    for name in ("repo.json", "RESTORE.txt", "keys/allowed_signers", sealed.partition("/")[2]):
        with denied():
            store.delete(name)
        with denied():
            store.put(name, b"x")
    bucket.become("reader")
    target = new_database()
    workbench.pgkeep("restore", "shop", "--target", target)
    assert_same(take_picture(shop), take_picture(target))


@pytest.mark.parametrize("role", ["writer", "pruner", "reader"])
def test_nobody_reaches_what_is_beside_the_repository(
    workbench: Workbench, bucket: Bucket, enforcing_s3: EnforcingS3Server, role: str
) -> None:
    enforcing_s3.client.put_object(Bucket=bucket.name, Key="payroll/secret", Body=b"x")
    bucket.become(role)
    settings = StoreSettings(
        endpoint=enforcing_s3.endpoint,
        access_key_id=os.environ["KEY_ID"],
        secret_access_key=os.environ["KEY_SECRET"],
    )
    beside = open_store(f"s3://{bucket.name}/payroll", settings)
    with denied():
        beside.get("secret")
    with denied():
        beside.put("other", b"x")
    with denied():
        beside.delete("secret")


# --- the command ----------------------------------------------------------------------------


def test_a_policy_can_be_given_to_a_tool_as_it_is(workbench: Workbench, bucket: Bucket) -> None:
    outcome = workbench.pgkeep("policy", "writer")
    document = json.loads(outcome.out)
    assert document["Version"] == "2012-10-17"
    assert f"arn:aws:s3:::{bucket.name}/shops/*" in outcome.out
    assert "turn versioning on" in outcome.err


def test_policies_of_other_kinds_are_printed(workbench: Workbench, shop: str) -> None:
    out = workbench.pgkeep("policy", "reader", "gs://bucket/shops").out
    assert out.startswith("gcloud iam roles create pgkeepReader")
    assert "chmod" not in workbench.pgkeep("policy", "writer").out
    assert f"install -d -m 700 -o pgkeep {workbench.repository}" in (
        workbench.pgkeep("policy", "writer", "local").out
    )
    answer: Any = workbench.pgkeep("policy", "pruner", "gs://bucket/shops", "--json").document
    assert len(answer["commands"]) == 3
    error = told(workbench.pgkeep("policy", "writer", "far", expect=None), "E001", exit_code=2)
    assert error.message == "no repository 'far' is configured"
    told(workbench.pgkeep("policy", "owner", "local", expect=None), "E001", exit_code=2)


def test_supabase_has_no_such_policies_and_that_is_said(workbench: Workbench, shop: str) -> None:
    configure(
        workbench, "[repositories.supabase]", 'url = "s3://backups"',
        'endpoint = "https://abcdefghijklmnopqrst.storage.supabase.co/storage/v1/s3"',
    )  # fmt: skip
    assert "may do everything" in workbench.pgkeep("policy", "writer", "supabase").err
    told(workbench.pgkeep("policy", "writer", expect=None), "E001", exit_code=2)
