"""The configuration: every setting, every refusal in its own words, and where secrets are."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import ByteSize

from pgkeep.config import (
    BackupConfig,
    Config,
    RepositoryConfig,
    SecretReference,
    default_state_dir,
    load,
    locate,
    parse,
    parse_size,
    resolve,
)
from pgkeep.errors import ConfigurationError, ExitCode

EVERYTHING = """
state_dir = "/var/lib/pgkeep"
postgres_bin_dirs = ["/opt/pg17/bin", "/opt/pg18/bin"]

[databases.shop]
url = { env = "SHOP_DATABASE_URL" }
jobs = 4
[databases.bank-2]
url = { file = "/etc/pgkeep/bank.url" }
[databases.old_crm]
url = { command = ["pass", "show", "crm"] }
[databases.local]
url = "postgresql:///local"

[repositories.local]
url = "file:///backups"
[repositories.far]
url = "s3://bucket/folder"
endpoint = "https://s3.example.com"
region = "eu-central-1"
addressing = "virtual"
access_key_id = { env = "KEY_ID" }
secret_access_key = { file = "/etc/pgkeep/s3.key" }
session_token = { command = ["token"] }
timeout_seconds = 20
attempts = 3
upload_limit = "5MB"
download_limit = 1000000
[repositories.google]
url = "gs://bucket"
credentials_file = "/etc/pgkeep/gcs.json"

[encryption]
recipients = ["age1abc"]
trusted_signers = ["ssh-ed25519 AAAA"]

[backup]
part_pages = 512
compression_level = 3
lock_timeout_seconds = 2.5
max_snapshot_hours = 6
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "pgkeep.toml"
    path.write_text(text)
    return path


def refusal(document: dict[str, Any]) -> str:
    with pytest.raises(ConfigurationError) as caught:
        parse(document, origin=Path("pgkeep.toml"))
    assert caught.value.exit_code is ExitCode.USAGE
    assert caught.value.hint
    return caught.value.message


# --- settings -------------------------------------------------------------------------------


def test_every_setting_is_read(tmp_path: Path) -> None:
    path = written(tmp_path, EVERYTHING)
    config = load(path)
    assert config.origin == path
    assert config.state_dir == Path("/var/lib/pgkeep")
    assert config.postgres_bin_dirs == (Path("/opt/pg17/bin"), Path("/opt/pg18/bin"))
    assert list(config.databases) == ["shop", "bank-2", "old_crm", "local"]
    assert config.databases["shop"].url == SecretReference(env="SHOP_DATABASE_URL")
    assert config.databases["shop"].jobs == 4
    assert config.databases["bank-2"].url == SecretReference(file=Path("/etc/pgkeep/bank.url"))
    assert config.databases["old_crm"].url == SecretReference(command=("pass", "show", "crm"))
    assert config.databases["local"].url == "postgresql:///local"
    assert config.repositories["local"].url == "file:///backups"
    assert config.repositories["far"] == RepositoryConfig(
        url="s3://bucket/folder",
        endpoint="https://s3.example.com",
        region="eu-central-1",
        addressing="virtual",
        access_key_id=SecretReference(env="KEY_ID"),
        secret_access_key=SecretReference(file=Path("/etc/pgkeep/s3.key")),
        session_token=SecretReference(command=("token",)),
        timeout_seconds=20,
        attempts=3,
        upload_limit=ByteSize(5_000_000),
        download_limit=ByteSize(1_000_000),
    )
    assert config.repositories["google"] == RepositoryConfig(
        url="gs://bucket", credentials_file=Path("/etc/pgkeep/gcs.json")
    )
    assert config.encryption.recipients == ("age1abc",)
    assert config.encryption.trusted_signers == ("ssh-ed25519 AAAA",)
    assert config.backup == BackupConfig(
        part_pages=512, compression_level=3, lock_timeout_seconds=2.5, max_snapshot_hours=6
    )


def test_every_setting_has_a_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "/state")
    config = load(written(tmp_path, ""))
    assert config == Config(state_dir=Path("/state/pgkeep"), origin=tmp_path / "pgkeep.toml")
    assert config.backup == BackupConfig(
        part_pages=None, compression_level=1, lock_timeout_seconds=30, max_snapshot_hours=12
    )
    assert (config.databases, config.repositories, config.encryption.recipients) == ({}, {}, ())


def test_a_configuration_does_not_change(tmp_path: Path) -> None:
    config = load(written(tmp_path, EVERYTHING))
    for record in (config, config.backup, config.databases["shop"]):
        with pytest.raises(ValueError, match="frozen"):
            record.jobs = 9  # type: ignore[union-attr]


def test_the_state_folder_is_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    assert default_state_dir() == Path("/home/ada/.local/state/pgkeep")
    monkeypatch.setenv("XDG_STATE_HOME", "/elsewhere")
    assert default_state_dir() == Path("/elsewhere/pgkeep")


# --- refusals -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("document", "problem"),
    [
        ({"sate_dir": "/x"}, "sate_dir: extra inputs are not permitted"),
        ({"backup": {"pages": 1}}, "backup.pages: extra inputs are not permitted"),
        (
            {"backup": {"part_pages": 8}},
            "backup.part_pages: input should be greater than or equal to 16",
        ),
        (
            {"backup": {"compression_level": 20}},
            "backup.compression_level: input should be less than or equal to 19",
        ),
        (
            {"backup": {"lock_timeout_seconds": 0}},
            "backup.lock_timeout_seconds: input should be greater than 0",
        ),
        (
            {"backup": {"lock_timeout_seconds": float("inf")}},
            "backup.lock_timeout_seconds: input should be less than or equal to 86400",
        ),
        (
            {"backup": {"full_read_days": 1e300}},
            "backup.full_read_days: input should be less than or equal to 36500",
        ),
        (
            {"backup": {"max_snapshot_hours": float("inf")}},
            "backup.max_snapshot_hours: input should be less than or equal to 8760",
        ),
        (
            {"backup": {"max_snapshot_hours": -1}},
            "backup.max_snapshot_hours: input should be greater than 0",
        ),
        (
            {"databases": {"shop": {"url": "x", "jobs": 65}}},
            "databases.shop.jobs: input should be less than or equal to 64",
        ),
        ({"databases": {"shop": {}}}, "databases.shop.url: field required"),
        ({"repositories": {"r": {}}}, "repositories.r.url: field required"),
        (
            {"encryption": {"recipients": "age1abc"}},
            "encryption.recipients: input should be a valid tuple",
        ),
        ({"databases": 7}, "databases: input should be a valid dictionary"),
    ],
)
def test_what_is_not_right_is_named(document: dict[str, Any], problem: str) -> None:
    assert refusal(document) == f"the configuration 'pgkeep.toml' is not right: {problem}"


@pytest.mark.parametrize(
    "name", ["Shop", "-shop", "_shop", "my shop", "a/b", "..", "", "a" * 64, "shöp", "shop\n"]
)
def test_a_name_that_makes_no_folder_is_refused(name: str) -> None:
    for section in ("databases", "repositories"):
        assert "string should match pattern" in refusal({section: {name: {"url": "x"}}})


@pytest.mark.parametrize("name", ["objects", "keys", "ledger", "condemned", "tmp", "lock"])
def test_a_database_with_a_name_of_the_repositorys_own_is_refused(name: str) -> None:
    assert refusal({"databases": {name: {"url": "x"}}}) == (
        f"a database cannot be called {name!r}: repositories use that name themselves"
    )


@pytest.mark.parametrize("url", [{}, {"env": "A", "file": "/b"}, {"env": "A", "command": ["b"]}])
def test_a_secret_has_exactly_one_source(url: dict[str, Any]) -> None:
    assert refusal({"databases": {"shop": {"url": url}}}) == (
        "the configuration 'pgkeep.toml' is not right: databases.shop.url:"
        " value error, give exactly one of env, file or command"
    )


def test_an_unknown_source_of_a_secret_is_named() -> None:
    message = refusal({"databases": {"shop": {"url": {"vault": "x"}}}})
    assert message.endswith("databases.shop.url.vault: extra inputs are not permitted")


def test_a_refusal_never_shows_a_value() -> None:
    document = {"databases": {"shop": {"url": "postgresql://u:hunter2@h/d", "jobs": "hunter2"}}}
    assert "hunter2" not in refusal(document)


def test_origin_is_no_setting() -> None:
    assert refusal({"origin": "/x"}) == "unknown setting 'origin'"


def test_a_file_that_is_not_there_says_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "none.toml"
    with pytest.raises(ConfigurationError) as caught:
        load(path)
    assert caught.value.message == f"there is no configuration at {str(path)!r}"
    assert caught.value.hint == "Run: pgkeep init, or name a file with --config."


def test_a_file_that_cannot_be_read_or_understood_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot read"):
        load(tmp_path)
    path = written(tmp_path, "")
    path.write_bytes(b"\xff")
    with pytest.raises(ConfigurationError, match="cannot read"):
        load(path)
    path.write_text("state_dir = [\n")
    with pytest.raises(ConfigurationError, match=r"pgkeep.toml' is not valid TOML: \S"):
        load(path)


def test_an_unknown_database_lists_the_known_ones(tmp_path: Path) -> None:
    config = load(written(tmp_path, EVERYTHING))
    assert config.database("shop") is config.databases["shop"]
    with pytest.raises(ConfigurationError) as caught:
        config.database("shpo")
    assert caught.value.message == (
        "no database 'shpo' is configured (configured: bank-2, local, old_crm, shop)"
    )
    assert "[databases.shpo]" in caught.value.hint
    with pytest.raises(ConfigurationError, match=r"configured: none"):
        Config().database("shop")


# --- secrets --------------------------------------------------------------------------------


def secret_refusal(reference: SecretReference) -> ConfigurationError:
    with pytest.raises(ConfigurationError) as caught:
        resolve(reference, "the URL")
    return caught.value


def test_a_secret_may_be_written_out() -> None:
    assert resolve("postgresql:///x", "the URL") == "postgresql:///x"


def test_a_secret_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_SECRET", " value\n")
    reference = SecretReference(env="A_SECRET")
    assert resolve(reference, "the URL") == "value"
    for value in (" ", ""):
        monkeypatch.setenv("A_SECRET", value)
        error = secret_refusal(reference)
        assert error.message == (
            "the URL is to come from the environment variable 'A_SECRET', which is not set"
        )
        assert error.hint == "Set A_SECRET, or name another source in the configuration."


def test_a_secret_comes_from_a_private_file(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    reference = SecretReference(file=path)
    assert secret_refusal(reference).message == (
        f"the URL is to come from the file {str(path)!r}, which cannot be read"
    )
    path.write_text("välue\n", encoding="utf-8")
    path.chmod(0o640)
    error = secret_refusal(reference)
    assert error.message == f"the URL is in the file {str(path)!r}, which others may read"
    assert error.hint == f"Run: chmod 600 {path}"
    path.chmod(0o600)
    assert resolve(reference, "the URL") == "välue"
    path.write_bytes(b"\xff")
    assert "cannot be read" in secret_refusal(reference).message


def test_an_empty_file_is_no_secret(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.touch(mode=0o600)
    assert secret_refusal(SecretReference(file=path)).message == (
        f"the URL is to come from the file {str(path)!r}, which is empty"
    )


def test_a_secret_comes_from_a_command() -> None:
    said = SecretReference(command=(sys.executable, "-c", "print(' value')"))
    assert resolve(said, "the URL") == "value"


@pytest.mark.parametrize(
    ("code", "message", "hint"),
    [
        ("", "which gave nothing (exit code 0)", "Run the command by hand."),
        ("import sys; sys.exit('locked')", "which gave nothing (exit code 1)", "locked"),
        ("print('x'); raise SystemExit(3)", "which gave nothing (exit code 3)",
         "Run the command by hand."),
    ],
)  # fmt: skip
def test_a_command_that_gives_nothing_is_named(code: str, message: str, hint: str) -> None:
    error = secret_refusal(SecretReference(command=(sys.executable, "-c", code)))
    assert error.message == (f"the URL is to come from the command {sys.executable!r}, {message}")
    assert error.hint == hint


@pytest.mark.parametrize(
    "command",
    [(), ("/no/such/program",), (sys.executable, "-c", r"print('\udcff')"), ("", "x"), ("a\0b",)],
)
def test_a_command_that_cannot_be_run_is_an_error_of_ours(command: tuple[str, ...]) -> None:
    secret_refusal(SecretReference(command=command))


def test_a_command_that_prints_no_text_is_an_error_of_ours() -> None:
    code = "import sys; sys.stdout.buffer.write(b'\\xff')"
    secret_refusal(SecretReference(command=(sys.executable, "-c", code)))


@pytest.mark.parametrize(
    ("url", "inline"),
    [
        ("postgresql://u:p@h/d", True),
        ("host=h password=p", True),
        ("postgresql://h/d?password=p", True),
        ("postgresql://u@h:5432/d", False),
        ("postgresql://h:5432/d", False),
        ("host=h user=u", False),
        ({"env": "X"}, False),
    ],
)
def test_a_password_in_the_file_itself_is_noticed(url: object, inline: bool) -> None:
    config = parse({"databases": {"shop": {"url": url}}})
    assert config.inline_secrets() == (("databases.shop.url",) if inline else ())


def test_a_key_in_the_file_itself_is_noticed_and_a_reference_is_not() -> None:
    repository = {
        "url": "s3://bucket",
        "access_key_id": "AKIA",
        "secret_access_key": "inline",
        "session_token": {"env": "TOKEN"},
    }
    config = parse({"repositories": {"far": repository}})
    assert config.inline_secrets() == ("repositories.far.secret_access_key",)


# --- sizes ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "size"),
    [("5MB", 5_000_000), ("5MiB", 5 << 20), ("2GB", 2 * 10**9), ("100", 100), ("1.5 kB", 1500)],
)
def test_a_size_has_a_unit_or_counts_bytes(text: str, size: int) -> None:
    assert parse_size(text) == size
    config = parse({"repositories": {"far": {"url": "s3://bucket", "upload_limit": text}}})
    assert config.repositories["far"].upload_limit == size


@pytest.mark.parametrize("text", ["", "0", "-1", "fast", "5XB"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="is not a size"):
        parse_size(text)
    assert "upload_limit" in refusal(
        {"repositories": {"far": {"url": "s3://bucket", "upload_limit": text}}}
    )


# --- which file -----------------------------------------------------------------------------


def test_the_file_is_the_named_one_else_the_variables_else_here_else_the_users(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    environment = {"PGKEEP_CONFIG": "/named", "XDG_CONFIG_HOME": str(tmp_path / "config")}
    assert locate(Path("/explicit"), environment) == Path("/explicit")
    assert locate(None, environment) == Path("/named")
    del environment["PGKEEP_CONFIG"]
    assert locate(None, environment) == Path("pgkeep.toml")
    users = tmp_path / "config" / "pgkeep" / "pgkeep.toml"
    users.parent.mkdir(parents=True)
    users.touch()
    assert locate(None, environment) == users
    Path("pgkeep.toml").touch()
    assert locate(None, environment) == Path("pgkeep.toml")
