"""The command line with repositories in object storage, from the configuration to the proof."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from comparison import load_statements
from conftest import Workbench
from failures import SMALL_SHOP, backups, configure, told
from fault_proxy import Answer, FaultProxy
from object_servers import ACCESS_KEY, SECRET_KEY, GcsServer, S3Server
from pgkeep.cli.places import store_settings
from pgkeep.config import RepositoryConfig
from pgkeep.model import ObjectName, StoredObject
from pgkeep.repository.objects import ObjectSource
from pgkeep.repository.verify import ReadingDates
from pgkeep.stores import StoreSettings

NewDatabase = Callable[[], str]


@pytest.fixture
def shop(workbench: Workbench, new_database: NewDatabase) -> str:
    """A small shop, configured, with small parts; its URL."""
    url = new_database()
    load_statements(url, SMALL_SHOP)
    workbench.init(url)
    configure(workbench, "[backup]", "part_pages = 16")
    return url


def use_only(workbench: Workbench, *lines: str) -> None:
    """Put the backups there and nowhere else."""
    text = workbench.config.read_text()
    local = f'[repositories.local]\nurl = "{workbench.repository.as_uri()}"\n'
    assert local in text
    workbench.config.write_text(text.replace(local, "\n".join(("[repositories.far]", *lines, ""))))


def s3_lines(workbench: Workbench, server: S3Server, endpoint: str = "") -> tuple[str, ...]:
    key = workbench.folder / "s3.key"
    key.write_text(SECRET_KEY + "\n")
    key.chmod(0o600)
    return (
        f'url = "s3://{server.new_bucket()}/shops"',
        f'endpoint = "{endpoint or server.endpoint}"',
        f'access_key_id = "{ACCESS_KEY}"',
        f'secret_access_key = {{ file = "{key}" }}',
    )


def count(url: str, table: str) -> object:
    with psycopg.connect(url) as connection:
        return connection.execute(f"SELECT count(*) FROM {table}".encode()).fetchone()


def test_a_backup_goes_to_s3_and_is_restored_from_there(
    workbench: Workbench, shop: str, new_database: NewDatabase, rclone: S3Server
) -> None:
    use_only(workbench, *s3_lines(workbench, rclone))
    first = workbench.pgkeep("backup", "shop")
    assert "made a new repository at s3://" in first.err
    assert SECRET_KEY not in first.out + first.err
    second = workbench.pgkeep("backup", "shop", "--json").document
    assert isinstance(second, dict)
    assert second["parts_reused"] > 0
    assert len(backups(workbench)) == 2
    target = new_database()
    outcome = workbench.pgkeep("restore", "shop", "--target", target)
    assert "equal to the backup" in outcome.out
    assert count(target, "orders") == count(shop, "orders")
    assert not workbench.repository.exists()
    assert [path.suffix for path in (workbench.state / "locks").iterdir()] == [".lock"]


def test_a_backup_survives_a_bad_network(
    workbench: Workbench, shop: str, new_database: NewDatabase, rclone: S3Server
) -> None:
    with FaultProxy(rclone.endpoint) as proxy:
        use_only(workbench, *s3_lines(workbench, rclone, proxy.endpoint))
        for method in ("PUT", "GET", "HEAD", "PUT"):
            proxy.on(Answer(503), method=method, times=1)
        outcome = workbench.pgkeep("backup", "shop")
    assert "503" not in outcome.out + outcome.err


def test_a_backup_goes_to_google_and_is_restored_from_there(
    workbench: Workbench, shop: str, new_database: NewDatabase, gcs: GcsServer
) -> None:
    key = gcs.service_account(workbench.folder)
    use_only(
        workbench,
        f'url = "gs://{gcs.new_bucket()}/shops"',
        f'endpoint = "{gcs.endpoint}"',
        f'credentials_file = "{key}"',
    )
    workbench.pgkeep("backup", "shop")
    target = new_database()
    outcome = workbench.pgkeep("restore", "shop", "--target", target)
    assert "equal to the backup" in outcome.out


def test_a_folder_and_a_bucket_hold_the_same_bytes(
    workbench: Workbench, shop: str, moto: S3Server
) -> None:
    lines = s3_lines(workbench, moto)
    configure(workbench, "[repositories.far]", *lines)
    workbench.pgkeep("backup", "shop")
    bucket = lines[0].split("/")[2]
    found = {
        item["Key"]: item["Size"] for item in moto.client.list_objects_v2(Bucket=bucket)["Contents"]
    }
    here = {
        f"shops/{path.relative_to(workbench.repository)}": path.stat().st_size
        for path in workbench.repository.rglob("*")
        if path.is_file() and path.name != "lock"
    }
    assert found == here


def test_what_is_wrong_with_a_bucket_is_told(
    workbench: Workbench, shop: str, rclone: S3Server
) -> None:
    lines = s3_lines(workbench, rclone)
    use_only(workbench, 'url = "s3://no-such-bucket/shops"', *lines[1:])
    error = told(workbench.pgkeep("backup", "shop", expect=None), "E060")
    assert "there is no bucket 'no-such-bucket'" in error.message
    workbench.config.write_text(
        workbench.config.read_text()
        .replace('url = "s3://no-such-bucket/shops"', lines[0])
        .replace(ACCESS_KEY, "another-key")
    )
    error = told(workbench.pgkeep("list", expect=None), "E063")
    assert "access_key_id" in error.hint


def test_a_repository_of_a_url_on_the_command_line_is_reached_as_configured(
    workbench: Workbench, shop: str, rclone: S3Server
) -> None:
    lines = s3_lines(workbench, rclone)
    use_only(workbench, *lines)
    workbench.pgkeep("backup", "shop")
    url = lines[0].split('"')[1]
    listed = workbench.pgkeep("list", "--repository", url, "--json").document
    assert isinstance(listed, list)
    assert len(listed) == 1


def test_a_secret_in_the_configuration_draws_a_warning(workbench: Workbench) -> None:
    workbench.config.write_text(
        '[repositories.far]\nurl = "s3://bucket"\nendpoint = "http://127.0.0.1:1"\n'
        'access_key_id = "a"\nsecret_access_key = "Secret"\nattempts = 1\n'
    )
    outcome = workbench.pgkeep("list", expect=None)
    assert "the secret of repositories.far.secret_access_key stands in" in outcome.err
    assert '"Secret"' not in outcome.err
    told(outcome, "E069")


def test_settings_reach_the_store_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOKEN", "t")
    item = RepositoryConfig.model_validate(
        {
            "url": "s3://bucket", "endpoint": "https://x", "region": "r", "addressing": "virtual",
            "profile": "p", "access_key_id": "a", "secret_access_key": "b",
            "session_token": {"env": "TOKEN"}, "credentials_file": "c", "timeout_seconds": 5,
            "attempts": 2, "upload_limit": "1kB", "download_limit": "2kB",
        }
    )  # fmt: skip
    assert store_settings("far", item, tmp_path) == StoreSettings(
        endpoint="https://x", region="r", addressing="virtual", profile="p", access_key_id="a",
        secret_access_key="b", session_token="t", credentials_file=Path("c"), timeout_seconds=5,
        attempts=2, upload_limit=1000, download_limit=2000, lock_folder=tmp_path / "locks",
    )  # fmt: skip


@pytest.mark.parametrize("command", ["list", "verify", "sync", "status", "restore"])
def test_one_that_opens_and_cannot_be_listed_keeps_nobody_from_the_others(
    workbench: Workbench, shop: str, new_database: NewDatabase, rclone: S3Server, command: str
) -> None:
    with FaultProxy(rclone.endpoint) as proxy:
        far = s3_lines(workbench, rclone, proxy.endpoint)
        configure(workbench, "[repositories.far]", *far)
        workbench.pgkeep("backup", "shop")
        proxy.on(Answer(403, b"<Error><Code>AccessDenied</Code></Error>"), match="*list-type=2*")
        options = ("shop", "--target", new_database()) if command == "restore" else ()
        outcome = workbench.pgkeep(command, *options, expect=3)
    assert "403 AccessDenied" in outcome.err
    if command == "restore":
        assert "equal to the backup" in outcome.out


def test_a_server_that_goes_down_while_it_is_verified_damages_nothing(
    workbench: Workbench, shop: str, rclone: S3Server
) -> None:
    """It is told to be down, after a few objects; what was read before counts as read."""
    with FaultProxy(rclone.endpoint) as proxy:
        far = s3_lines(workbench, rclone, proxy.endpoint)
        configure(workbench, "[repositories.far]", *far, "attempts = 1")
        workbench.pgkeep("backup", "shop")
        proxy.clear()
        proxy.on(Answer(503), method="GET", match="*/objects/*")
        looked = workbench.pgkeep("verify", "--read", "all", "--json", expect=3)
        assert isinstance(looked.document, dict)
        assert list(looked.document) == ["local"]
        assert looked.document["local"]["whole"] is True
        assert len([one for one in proxy.requests if "/objects/" in one.path]) == 3
    assert "503" in looked.err


def test_what_was_read_before_a_verify_was_interrupted_counts(
    workbench: Workbench, shop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    workbench.pgkeep("backup", "shop")
    fetch = ObjectSource.fetch
    fetched: list[ObjectName] = []

    def interrupted(source: ObjectSource, item: StoredObject) -> bytes:
        if len(fetched) == 2:
            raise KeyboardInterrupt
        fetched.append(item.name)
        return fetch(source, item)

    monkeypatch.setattr(ObjectSource, "fetch", interrupted)
    workbench.pgkeep("verify", "--read", "all", expect=130)
    dates = ReadingDates(workbench.state / "verified.sqlite")
    assert set(dates.last_read(workbench.repository.as_uri())) == set(fetched)
