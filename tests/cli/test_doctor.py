"""pgkeep doctor: what it tells of repositories, its exit codes, and repositories that vanished."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import Any

import pytest

from comparison import load_statements
from conftest import Outcome, Workbench
from failures import configure, told
from keyrings import ThrowAwayKeyring
from object_servers import ACCESS_KEY, SECRET_KEY, S3Server

SMALL = ("CREATE TABLE small AS SELECT n AS id FROM generate_series(1, 100) AS n",)
REF = "abcdefghijklmnopqrst"
NewDatabase = Callable[[], str]


@pytest.fixture
def shop(workbench: Workbench, new_database: NewDatabase) -> str:
    url = new_database()
    load_statements(url, SMALL)
    workbench.init(url)
    return url


def bucket_lines(server: S3Server, bucket: str) -> tuple[str, ...]:
    return (
        "[repositories.s3]", f'url = "s3://{bucket}/shops"', f'endpoint = "{server.endpoint}"',
        f'access_key_id = "{ACCESS_KEY}"', 'secret_access_key = { env = "STORE_SECRET" }',
    )  # fmt: skip


@pytest.fixture
def locked(workbench: Workbench, shop: str, moto: S3Server) -> str:
    """A second copy, in a bucket that is as it should be; its name."""
    bucket = moto.new_bucket(object_lock=True)
    set_lock(moto, bucket, "COMPLIANCE", 60)
    workbench.monkeypatch.setenv("STORE_SECRET", SECRET_KEY)
    configure(workbench, *bucket_lines(moto, bucket))
    return bucket


def set_lock(server: S3Server, bucket: str, mode: str, days: int) -> None:
    rule: Any = {"DefaultRetention": {"Mode": mode, "Days": days}}
    server.client.put_object_lock_configuration(
        Bucket=bucket,
        ObjectLockConfiguration={"ObjectLockEnabled": "Enabled", "Rule": rule},
    )


def found(outcome: Outcome, *severities: str) -> dict[str, str]:
    """What is found, by what it is about; notes only if they are asked for."""
    document = outcome.document
    assert isinstance(document, dict)
    wanted = severities or ("error", "warning")
    return {one["about"]: one["what"] for one in document["findings"] if one["severity"] in wanted}


def test_a_good_set_of_copies_needs_nothing(workbench: Workbench, locked: str) -> None:
    outcome = workbench.pgkeep("doctor", "--offline")
    assert "nothing needs attention" in outcome.out
    assert "the first backup makes a repository" in outcome.out
    assert "object lock: COMPLIANCE, 60 days" in outcome.out
    assert not workbench.repository.exists()
    workbench.pgkeep("backup", "shop")
    answer = workbench.pgkeep("doctor", "--offline", "shop", "--json")
    assert found(answer) == {}
    assert isinstance(answer.document, dict)
    local, far = answer.document["repositories"]
    assert (local["name"], local["usable"], local["new"]) == ("local", True, False)
    assert local["newest_backup"] == far["newest_backup"]
    assert far["facts"] == {
        "versioning": True, "object_lock": {"mode": "COMPLIANCE", "days": 60}, "expiry": [],
        "public": False,
    }  # fmt: skip
    assert SECRET_KEY not in answer.out + answer.err


def test_copies_on_this_machine_alone_draw_a_warning(workbench: Workbench, shop: str) -> None:
    outcome = workbench.pgkeep("doctor", "--offline", expect=3)
    assert "every copy is on this machine" in outcome.out


def test_what_threatens_a_bucket_is_told(workbench: Workbench, shop: str, moto: S3Server) -> None:
    bucket = moto.new_bucket()
    workbench.monkeypatch.setenv("STORE_SECRET", SECRET_KEY)
    configure(workbench, *bucket_lines(moto, bucket))
    moto.client.put_bucket_acl(Bucket=bucket, ACL="public-read")
    moto.client.put_bucket_lifecycle_configuration(
        Bucket=bucket,
        LifecycleConfiguration={
            "Rules": [{"ID": "old", "Status": "Enabled", "Filter": {}, "Expiration": {"Days": 9}}]
        },
    )
    out = workbench.pgkeep("doctor", "--offline", expect=3).out
    assert "! repository s3: the bucket keeps no older versions" in out
    assert "! repository s3: strangers may read or write it" in out
    assert "! repository s3: the lifecycle rule 'old' removes everything after 9 days" in out
    assert "Remove the rule: pgkeep prune" in out


def test_a_repository_that_is_behind_is_told(workbench: Workbench, locked: str) -> None:
    workbench.pgkeep("backup", "shop")
    next(workbench.repository.glob("shop/*/*/*/manifest.json")).unlink()
    outcome = workbench.pgkeep("doctor", "--offline", "--json", expect=3)
    assert found(outcome) == {"repository local": "it lacks 1 backup that another has"}
    workbench.pgkeep("sync")
    workbench.pgkeep("doctor", "--offline")


def test_what_would_fail_a_backup_is_an_error(
    workbench: Workbench, locked: str, moto: S3Server
) -> None:
    text = workbench.config.read_text()
    gone = text.replace(f's3://{locked}/shops"', 's3://no-such-bucket/shops"\nrequired = true')
    workbench.config.write_text(gone)
    outcome = workbench.pgkeep("doctor", "--offline", "--json", expect=1)
    assert "there is no bucket 'no-such-bucket'" in found(outcome)["repository s3"]
    workbench.config.write_text(gone.replace("\nrequired = true", ""))
    workbench.pgkeep("doctor", "--offline", expect=3)
    workbench.config.write_text(text)
    workbench.monkeypatch.delenv("SHOP_DATABASE_URL")
    outcome = workbench.pgkeep("doctor", "--offline", "--json", expect=1)
    assert "which is not set" in found(outcome)["database shop"]


def test_a_key_that_is_missing_or_expires_is_told(
    workbench: Workbench, locked: str, new_keyring: Callable[[], ThrowAwayKeyring]
) -> None:
    keyring = new_keyring()
    text = workbench.config.read_text()
    start = text.index("recipients = [")
    line = text[start : text.index("\n", start)]
    gpg = f'recipients = ["gpg:ann@example.com"]\ngpg_home = "{keyring.home}"'
    workbench.config.write_text(text.replace(line, gpg))
    outcome = workbench.pgkeep("doctor", "--offline", "--json", expect=1)
    assert "recipient gpg:ann@example.com" in found(outcome)
    keyring.new_key("Ann <ann@example.com>", expires="5d")
    outcome = workbench.pgkeep("doctor", "--offline", "--json", expect=3)
    assert "expires on" in found(outcome)["recipient gpg:ann@example.com"]


def test_a_copy_in_the_project_that_is_backed_up_is_told(
    workbench: Workbench, shop: str, moto: S3Server
) -> None:
    configure(
        workbench, "[repositories.supabase]", 'url = "s3://backups"', 'access_key_id = "a"',
        'secret_access_key = { env = "STORE_SECRET" }', "attempts = 1", "timeout_seconds = 1",
        f'endpoint = "https://{REF}.storage.supabase.co/storage/v1/s3"',
    )  # fmt: skip
    workbench.monkeypatch.setenv("STORE_SECRET", SECRET_KEY)
    url = f"postgresql://postgres:x@db.{REF}.supabase.co:1/postgres"
    workbench.monkeypatch.setenv("SHOP_DATABASE_URL", url)
    out = workbench.pgkeep("doctor", "--offline", expect=3).out
    words = f"repository supabase: it lies in the Supabase project '{REF}', the very one of"
    assert words in out
    assert words in workbench.pgkeep("backup", "shop", expect=1).err


# --- a repository that vanished -------------------------------------------------------------


def test_a_disk_that_is_not_mounted_is_no_new_repository(workbench: Workbench, shop: str) -> None:
    workbench.pgkeep("backup", "shop")
    disk = workbench.repository.rename(workbench.folder / "unmounted")
    workbench.repository.mkdir()
    error = told(workbench.pgkeep("backup", "shop", expect=None), "E055")
    assert f"the repository at {workbench.repository.as_uri()} has vanished" in error.message
    assert list(workbench.repository.iterdir()) == []
    outcome = workbench.pgkeep("doctor", "--offline", "--json", expect=1)
    assert "has vanished" in found(outcome)["repository local"]
    shutil.rmtree(workbench.repository)
    disk.rename(workbench.repository)
    workbench.pgkeep("backup", "shop")


def test_whoever_wants_to_begin_anew_says_so(workbench: Workbench, shop: str) -> None:
    workbench.pgkeep("backup", "shop")
    shutil.rmtree(workbench.repository)
    told(workbench.pgkeep("backup", "shop", expect=None), "E055")
    assert "is forgotten" in workbench.pgkeep("forget", "local").out
    assert "made a new repository" in workbench.pgkeep("backup", "shop").err
    told(workbench.pgkeep("forget", "other", expect=None), "E002", exit_code=2)


def test_forgetting_what_is_not_known_is_no_error(workbench: Workbench, shop: str) -> None:
    answer = workbench.pgkeep("forget", "local", "--json").document
    assert isinstance(answer, dict)
    assert answer["was_known"] is False
