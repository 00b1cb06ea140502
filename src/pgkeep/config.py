"""`pgkeep.toml`, read and checked, frozen. Secrets are references; nothing is connected to here."""

from __future__ import annotations

import os
import subprocess
import tomllib
from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError
from pydantic import (
    AfterValidator,
    BaseModel,
    ByteSize,
    ConfigDict,
    Field,
    StringConstraints,
    TypeAdapter,
    ValidationError,
)

from pgkeep.errors import ConfigurationError
from pgkeep.model import RESERVED_FOLDERS, Kind
from pgkeep.networks import Rule

CONFIG_VARIABLE = "PGKEEP_CONFIG"
DEFAULT_NAME = "pgkeep.toml"


Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]

Size = Annotated[ByteSize, Field(gt=0)]
"""Bytes as a number, or with a unit: `"5MB"` is 5,000,000, `"5MiB"` 5,242,880."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, hide_input_in_errors=True, extra="forbid")


class SecretReference(_Frozen):
    """Where a secret is: exactly one of an environment variable, a file, or a command."""

    env: str | None = None
    """An environment variable that holds it."""
    file: Path | None = None
    """A file that holds it, which nobody else may read."""
    command: tuple[str, ...] | None = None
    """A command that prints it, as a list of arguments."""

    def model_post_init(self, _: Any, /) -> None:
        if sum(value is not None for value in (self.env, self.file, self.command)) != 1:
            raise ValueError("give exactly one of env, file or command")

    def resolve(self, what: str) -> str:
        """The secret itself, without surrounding white space; `ConfigurationError` if absent."""
        if self.env is not None:
            return self._from_environment(what)
        if self.file is not None:
            return self._from_file(what, self.file)
        assert self.command is not None
        return self._from_command(what, self.command)

    def _from_environment(self, what: str) -> str:
        value = os.environ.get(self.env or "", "").strip()
        if not value:
            raise ConfigurationError(
                f"{what} is to come from the environment variable {self.env!r}, which is not set",
                hint=f"Set {self.env}, or name another source in the configuration.",
            )
        return value

    @staticmethod
    def _from_file(what: str, path: Path) -> str:
        try:
            status = path.stat()
            text = path.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as exc:
            raise ConfigurationError(
                f"{what} is to come from the file {str(path)!r}, which cannot be read",
                hint=f"{exc}.",
            ) from exc
        if status.st_mode & 0o077:
            raise ConfigurationError(
                f"{what} is in the file {str(path)!r}, which others may read",
                hint=f"Run: chmod 600 {path}",
            )
        if not text:  # libpq takes nothing for the default database of this machine
            raise ConfigurationError(
                f"{what} is to come from the file {str(path)!r}, which is empty"
            )
        return text

    @staticmethod
    def _from_command(what: str, command: tuple[str, ...]) -> str:
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        except (OSError, subprocess.TimeoutExpired, IndexError, ValueError) as exc:
            raise ConfigurationError(
                f"{what} is to come from a command that cannot be run", hint=f"{exc}."
            ) from exc
        if done.returncode != 0 or not done.stdout.strip():
            raise ConfigurationError(
                f"{what} is to come from the command {command[0]!r}, which gave nothing"
                f" (exit code {done.returncode})",
                hint=done.stderr.strip()[-200:] or "Run the command by hand.",
            )
        return done.stdout.strip()


Secret = str | SecretReference


def resolve(secret: Secret, what: str) -> str:
    """The value of a secret that is either written out or referred to."""
    return secret if isinstance(secret, str) else secret.resolve(what)


def parse_size(text: str) -> int:
    """The bytes that a text like `2GB` means; `ConfigurationError` if it means none."""
    try:
        return int(TypeAdapter(Size).validate_python(text))
    except ValidationError as exc:
        raise ConfigurationError(
            f"{text!r} is not a size", hint="Use a number with a unit, such as 500MB or 2GB."
        ) from exc


def _checked_cron(text: str) -> str:
    """A cron expression, or nothing for never."""
    if text:
        if len(text.split()) != 5:
            raise ValueError(f"{text!r} has not the five fields of a cron expression")
        try:
            CronSim(text, datetime(2026, 1, 1, tzinfo=UTC))
        except CronSimError as exc:
            raise ValueError(f"{text!r} is not a cron expression ({exc})") from exc
    return text


def _checked_zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as exc:
        raise ValueError(f"{name!r} is not a time zone such as UTC or Europe/Berlin") from exc
    return name


Cron = Annotated[str, AfterValidator(_checked_cron)]
"""Minute, hour, day, month, weekday: `"0 6 * * *"`, `"0 8 * * SUN#1"`. Empty: never."""

Zone = Annotated[str, AfterValidator(_checked_zone)]


class ScheduleConfig(_Frozen):
    """When the keeper does what, as cron expressions. An empty one means never."""

    zone: Zone = "UTC"
    """The time zone of the expressions, such as `Europe/Berlin`."""
    jitter_seconds: float = Field(default=60, ge=0, le=3600)
    """Up to so much later each run begins, lest all hosts begin at once."""
    full: Cron = "0 6 * * *"
    """A full backup, filed under daily."""
    schema_: Cron = Field(default="0 12 * * *", alias="schema")
    """A backup of the definitions."""
    data: Cron = "0 18 * * *"
    """A backup of the rows, filed under daily."""
    weekly: Cron = "0 2 * * SUN"
    """A full backup, filed under weekly."""
    monthly: Cron = "30 2 1 * *"
    """A full backup, filed under monthly."""
    drill: Cron = "0 4 * * SUN"
    """A restore of the newest backup, proven."""
    recovery_test: Cron = "0 9 * * SUN#1"
    """A restore of a backup chosen at random, proven."""
    verify: Cron = "0 7 * * *"
    """The health check of the repositories."""
    sync: Cron = "20 * * * *"
    """Repositories that fell behind catch up, where there are several."""
    prune: Cron = "0 6 * * SUN"
    """Retention."""
    audit: Cron = "0 8 * * SUN#1"
    """A reminder to look through the report of the month."""
    review: Cron = "0 10 * * SUN#1"
    """A reminder to review the strategy."""


class DatabaseScheduleConfig(_Frozen):
    """Where a database differs from `[schedule]`. Not set: as there. Empty: never."""

    zone: Zone | None = None
    """The time zone of this database's expressions."""
    full: Cron | None = None
    """A full backup, filed under daily."""
    schema_: Cron | None = Field(default=None, alias="schema")
    """A backup of the definitions."""
    data: Cron | None = None
    """A backup of the rows, filed under daily."""
    weekly: Cron | None = None
    """A full backup, filed under weekly."""
    monthly: Cron | None = None
    """A full backup, filed under monthly."""
    drill: Cron | None = None
    """A restore of the newest backup, proven."""
    recovery_test: Cron | None = None
    """A restore of a backup chosen at random, proven."""


class KeeperConfig(_Frozen):
    """How `pgkeep run` works."""

    capture: bool = True
    """Whether it captures the changes of every database (see `databases.NAME.capture`)."""
    job_hours: float = Field(default=24, gt=0, le=720)
    """A job that takes longer is ended."""
    stop_seconds: float = Field(default=300, ge=0, le=86400)
    """Asked to end, it waits this long for jobs that run, then ends them."""
    watch_seconds: float = Field(default=300, ge=1, le=86400)
    """How often it looks at databases and repositories."""
    metrics: str | None = Field(default=None, pattern=r"^[^:/]*:\d{1,5}$|^\[[0-9a-f:]+\]:\d{1,5}$")
    """Where Prometheus may ask: `127.0.0.1:9187`. Not set: nowhere."""


class WatchConfig(_Frozen):
    """What is told as an alert, besides objectives that are missed."""

    late_minutes: float = Field(default=60, gt=0, le=1e6)
    """A job that has not succeeded so long after its time is late."""
    smaller_percent: float = Field(default=50, gt=0, le=100)
    """A backup is told that is smaller than usual by more than this."""
    larger_factor: float = Field(default=3, gt=1, le=1e6)
    """A backup is told that is so many times larger than usual."""
    slower_factor: float = Field(default=3, gt=1, le=1e6)
    """A backup is told that took so many times longer than usual (and over a minute)."""
    minimum_bytes: Size | None = None
    """A full backup with less text than this is told, whatever is usual."""
    slot_percent: float = Field(default=50, gt=0, le=100)
    """The slot is told when it holds this share of its limit."""
    disk_percent: float = Field(default=10, gt=0, lt=100)
    """A disk of ours is told that has less than this free."""
    expiry_days: float = Field(default=14, gt=0, le=3650)
    """What expires within this is told."""
    expires: dict[str, date] = Field(default_factory=dict)
    """Credentials and certificates and the day on which they expire: `{ token = 2026-12-31 }`."""


class MailConfig(_Frozen):
    """A mail server to send alerts through."""

    server: str
    """Host and port: `smtp.example.com:587`."""
    security: Literal["starttls", "tls", "none"] = "starttls"
    """How the connection is encrypted. `none` only for a server on this machine."""
    sender: str
    """From whom."""
    to: tuple[str, ...] = Field(min_length=1)
    """To whom."""
    user: str | None = None
    """Not set: without logging in."""
    password: Secret | None = None
    """Goes with `user`."""


class WebhookConfig(_Frozen):
    """An address that is sent each alert as JSON."""

    url: Secret
    """Where to POST."""
    secret: Secret | None = None
    """Signs the body: `X-Pgkeep-Signature: t=TIME,v1=HMAC-SHA256 of TIME.BODY`."""


class NotifyConfig(_Frozen):
    """Who is told when something begins to be wrong, and when it is over."""

    slack: tuple[Secret, ...] = ()
    """Incoming webhooks of Slack."""
    mail: MailConfig | None = None
    webhooks: dict[Name, WebhookConfig] = Field(default_factory=dict)
    apprise: tuple[Secret, ...] = ()
    """URLs of apprise, for a hundred other services; needs the extra `apprise`."""
    minimum: Literal["warning", "critical"] = "warning"
    """What is less severe is not told."""
    ping: Secret | None = None
    """A dead man's switch (healthchecks.io and its like): `{job}` in it becomes the job's name,
    and `/start` or `/fail` is added."""


class CheckConfig(_Frozen):
    """A question to the restored database, asked at each drill, whose answer is known."""

    name: str
    """What it is about, in a few words."""
    sql: str
    """A query. Tables are found by the database's own search path."""
    expect: Literal["rows", "no rows", "value"] | None = None
    """What the result must be. Not set: `value` if there is a bound, else `rows`."""
    minimum: float | None = None
    """The least that the one value may be."""
    maximum: float | None = None
    """The most that the one value may be."""

    def model_post_init(self, _: Any, /) -> None:
        bounded = self.minimum is not None or self.maximum is not None
        if self.expect is not None and bounded != (self.expect == "value"):
            raise ValueError("minimum and maximum go with the expectation value, and it with them")

    @property
    def expectation(self) -> Literal["rows", "no rows", "value"]:
        """What is expected, said or not."""
        bounded = self.minimum is not None or self.maximum is not None
        return self.expect or ("value" if bounded else "rows")


class ObjectivesConfig(_Frozen):
    """What was promised: how much may be lost (RPO), how long a recovery may take (RTO)."""

    automated_rpo_minutes: float = Field(default=5, gt=0, le=1e6)
    """What may be lost where changes are captured."""
    manual_rpo_hours: float = Field(default=24, gt=0, le=1e6)
    """What may be lost where only backups are made."""
    schema_rpo_minutes: float = Field(default=0, ge=0, le=1e6)
    """Which changes of the schema may be lost where changes are captured."""
    critical_rto_minutes: float = Field(default=15, gt=0, le=1e6)
    """Until the critical tables are back."""
    full_rto_minutes: float = Field(default=60, gt=0, le=1e6)
    """Until the whole database is back, proven."""
    application_rto_minutes: float = Field(default=30, gt=0, le=1e6)
    """Until the application runs again."""
    test_rto_minutes: float = Field(default=120, gt=0, le=1e6)
    """How long a drill may take."""
    drill_days: float = Field(default=8, gt=0, le=36500)
    """How old the last drill that passed may be."""


class RecoveryConfig(_Frozen):
    """What `pgkeep recover` does around the restore. Commands are lists of arguments."""

    target: Secret | None = None
    """The connection string of the database to recover into. Not set: name it with `--target`."""
    stop: tuple[tuple[str, ...], ...] = ()
    """Commands that stop the application and put up a maintenance page, in order."""
    start: tuple[tuple[str, ...], ...] = ()
    """Commands that start the application again, in order."""
    hook_seconds: float = Field(default=300, gt=0, le=86400)
    """How long one command may take."""


class DatabaseDrillConfig(_Frozen):
    """What a drill does besides asking the checks. Commands are lists of arguments."""

    application: tuple[tuple[str, ...], ...] = ()
    """Commands that start the application against the drill's database (`PGKEEP_DRILL_URL`) and
    end once it answers: how long that takes counts for `application_rto_minutes`."""
    application_seconds: float = Field(default=300, gt=0, le=86400)
    """How long one of these commands may take."""


def _check_networks(texts: tuple[str, ...]) -> tuple[str, ...]:
    try:
        Rule.parse(texts)
    except ConfigurationError as exc:
        raise ValueError(exc.message) from exc
    return texts


Networks = Annotated[tuple[str, ...], AfterValidator(_check_networks)]


class FilesConfig(_Frozen):
    """Files of Supabase Storage, to be backed up beside the database. By a `key` or by S3 keys."""

    url: str | None = None
    """`https://REF.supabase.co`. Not set: as the connection string says."""
    key: Secret | None = None
    """A secret (service_role) key of the project's API."""
    access_key_id: Secret | None = None
    """With `secret_access_key`: keys of Storage's S3 endpoint, made in the dashboard."""
    secret_access_key: Secret | None = None
    """Goes with `access_key_id`."""
    region: str = "us-east-1"
    """Of the S3 endpoint: the project's region."""
    buckets: tuple[str, ...] = ()
    """Only these. Not set: all."""
    jobs: int = Field(default=4, ge=1, le=32)
    """Files that are read at once."""
    limit: Size | None = None
    """Bytes per second that are read. Not set: no limit."""

    @property
    def is_wanted(self) -> bool:
        """Whether files are to be kept."""
        return self.key is not None or self.access_key_id is not None


class SupabaseConfig(_Frozen):
    """The project of Supabase's that a database is in, where pgkeep may ask the platform."""

    token: Secret | None = None
    """An access token of the Management API: for watching the platform's own backups, for `pgkeep
    recover --managed`, and for logging in without a stored password (`url = "supabase://REF"`)."""
    project: str | None = Field(default=None, pattern=r"^[a-z0-9]{10,40}$")
    """Its reference. Not set: what the connection string says."""
    api: str = "https://api.supabase.com"
    """Where the Management API is."""


class DatabaseConfig(_Frozen):
    """A database to protect."""

    url: Secret
    """The connection string: `{ env = "NAME" }`, `{ file = "PATH" }` or `{ command = [...] }`."""
    jobs: int | None = Field(default=None, ge=1, le=64)
    """Connections that read at once. Not set: one more than this host has processors."""
    checks: tuple[CheckConfig, ...] = ()
    """What to ask the restored database at each drill."""
    critical_tables: tuple[str, ...] = ()
    """Tables to restore first, as `schema.table`."""
    objectives: ObjectivesConfig = ObjectivesConfig()
    recovery: RecoveryConfig = RecoveryConfig()
    drill: DatabaseDrillConfig = DatabaseDrillConfig()
    schedule: DatabaseScheduleConfig = DatabaseScheduleConfig()
    capture: bool | None = None
    """Whether `pgkeep run` captures its changes. Not set: as `keeper.capture`."""
    allowed_networks: Networks | None = None
    """Connect only if all addresses of its host are in these ranges. Not set: as at the top."""
    supabase: SupabaseConfig = SupabaseConfig()
    files: FilesConfig = FilesConfig()


class RepositoryConfig(_Frozen):
    """A place where backups are kept."""

    url: str
    """`file:///absolute/path`, `s3://bucket/folder` or `gs://bucket/folder`."""
    kinds: tuple[Kind, ...] = Field(default=tuple(Kind), min_length=1)
    """Which kinds of backups go there: `full`, `schema`, `data`."""
    required: bool = False
    """Whether a backup fails without it. If not, the others go on, and `pgkeep sync` catches up."""
    protect_days: float | None = Field(default=None, gt=0)
    """s3, gs: where the bucket locks objects, for so many days nobody can remove any object of a
    backup, older ones that it uses included. Not set: half of the bucket's default retention."""
    endpoint: str | None = None
    """The server's URL, where it is not Amazon's or Google's: `https://host`."""
    region: str | None = None
    """s3: the region that the bucket is in. Not set: what the AWS SDK finds."""
    price: float | None = Field(default=None, ge=0)
    """US dollars for a gigabyte and month, for the audit. Not set: the published price."""
    plain_http: bool = False
    """Whether an `endpoint` that is not on this machine may be `http://`, unencrypted."""
    allowed_networks: Networks | None = None
    """Connect only if all addresses of its host are in these ranges. Not set: as at the top."""
    addressing: Literal["path", "virtual"] | None = None
    """s3: whether the bucket stands in the path or in the host name. Not set: `path` for an
    `endpoint`, else as the AWS SDK does."""
    profile: str | None = None
    """s3: a profile of the AWS configuration files."""
    access_key_id: Secret | None = None
    """s3: not set: what the AWS SDK finds (variables, profile, role of the machine)."""
    secret_access_key: Secret | None = None
    """s3: goes with `access_key_id`; written out in the file itself it draws a warning."""
    session_token: Secret | None = None
    """s3: goes with temporary keys."""
    credentials_file: Path | None = None
    """gs: a service account's key. Not set: what the Google SDK finds."""
    timeout_seconds: float = Field(default=60, gt=0, le=3600)
    """s3, gs: how long the server may be silent before a call is tried again."""
    attempts: int = Field(default=6, ge=1, le=100)
    """s3, gs: how often a call is tried while the store is unavailable."""
    upload_limit: Size | None = None
    """Bytes per second, such as `"5MB"`. Not set: no limit."""
    download_limit: Size | None = None
    """Bytes per second, such as `"5MB"`. Not set: no limit."""


class EncryptionConfig(_Frozen):
    """To whom backups are sealed, and whose signature is believed."""

    recipients: tuple[str, ...] = ()
    """Public keys: whoever holds the private half of one opens backups. `age1...`, ssh keys, or
    `gpg:NAME` for a key in gpg's keyring (a fingerprint, or a mail address that only one has)."""
    gpg_home: Path | None = None
    """The folder of that keyring. Not set: gpg's own (GNUPGHOME, else `~/.gnupg`)."""
    trusted_signers: tuple[str, ...] = ()
    """Signing keys of hosts (`ssh-ed25519 ...`) whose backups are believed at restore."""


class RetentionConfig(_Frozen):
    """How long backups are kept, by their tier. The newest of each kind always is."""

    daily_days: float = Field(default=30, gt=0, le=36500)
    """Those filed under daily."""
    weekly_days: float = Field(default=90, gt=0, le=36500)
    """Those filed under weekly."""
    monthly_days: float = Field(default=365, gt=0, le=36500)
    """Those filed under monthly."""
    schema_days: float = Field(default=90, gt=0, le=36500)
    """Those filed under schema."""
    manual_days: float = Field(default=90, gt=0, le=36500)
    """Those filed under manual."""
    minimum: int = Field(default=3, ge=1)
    """So many of each database and tier are kept, however old."""


class BackupConfig(_Frozen):
    """How a backup is made."""

    part_pages: int | None = Field(default=None, ge=16, le=1 << 20)
    """Pages of 8 kB that are read and stored as one part. Not set: it follows each table's size."""
    read_limit: Size | None = None
    """Bytes per second, such as `"20MB"`, that are read from the database, over all connections
    together. Not set: no limit. The snapshot is held for as long as that takes."""
    compression_level: int = Field(default=1, ge=-7, le=19)
    """The level of zstd."""
    lock_timeout_seconds: float = Field(default=30, gt=0, le=86400)
    """How long to wait for a table that somebody is altering before giving way."""
    verify_share: float = Field(default=0.01, ge=0, le=1)
    """Of the parts that did not change, the share (at least one) that is read again to compare."""
    full_read_days: float = Field(default=30, gt=0, le=36500)
    """After so many days everything is read again, changed or not."""
    max_snapshot_hours: float = Field(default=12, gt=0, le=8760)
    """When to end a backup whose snapshot would hold back the source's vacuum for too long."""
    role_passwords: bool = False
    """Supabase: whether what the server checks passwords of your roles by (SCRAM verifiers, not the
    passwords) is kept, sealed, and put back."""


class CaptureConfig(_Frozen):
    """How changes are captured between backups."""

    slot: str | None = Field(default=None, pattern=r"^[a-z0-9_]{1,63}$")
    """The name of the replication slot. Not set: `pgkeep_` and the name of the database."""
    plugin: Literal["pgoutput", "test_decoding"] | None = None
    """How the slot tells of changes. Not set: `pgoutput` with event triggers, if the role may make
    those, else `test_decoding`, which needs nothing but the slot, and tells of the updates of other
    roles' tables too, but is less exact where tables are altered."""
    poll_seconds: float = Field(default=1, gt=0, le=600)
    """How often to ask for changes: together with storing them, this is what can be lost."""
    heartbeat_seconds: float = Field(default=60, gt=0, le=3600)
    """How often the journal says that nothing has changed."""
    slot_limit: Size = ByteSize(2 << 30)
    """When the slot keeps more WAL than this, it is dropped, lest the source's disk fills."""
    keep_days: float = Field(default=7, gt=0, le=36500)
    """How far back every moment can be reached. Older segments are pruned."""
    backups: bool = True
    """Whether capture makes a backup by itself when it begins anew or the schema has changed."""


class DrillConfig(_Frozen):
    """Where drills are made."""

    server: Secret | None = None
    """The connection string of a server where databases may be made and dropped. Not set: a scratch
    server is started, and removed, on this host."""


class Config(_Frozen):
    """The whole configuration."""

    state_dir: Path = Field(default_factory=lambda: default_state_dir())
    """Where this host keeps its own keys (0600). Not set: the user's state folder."""
    postgres_bin_dirs: tuple[Path, ...] = ()
    """Folders with pg_dump, pg_restore and psql to look in before the usual places."""
    databases: dict[Name, DatabaseConfig] = Field(default_factory=dict)
    repositories: dict[Name, RepositoryConfig] = Field(default_factory=dict)
    encryption: EncryptionConfig = EncryptionConfig()
    backup: BackupConfig = BackupConfig()
    retention: RetentionConfig = RetentionConfig()
    capture: CaptureConfig = CaptureConfig()
    drills: DrillConfig = DrillConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    keeper: KeeperConfig = KeeperConfig()
    watch: WatchConfig = WatchConfig()
    notify: NotifyConfig = NotifyConfig()
    allowed_networks: Networks = ()
    """Ranges such as `"10.8.0.0/16"`: databases and stores outside are refused before anything is
    sent there. This machine itself is always allowed. Not set: everything is."""
    origin: Path | None = None
    """The file that this was read from."""

    def database(self, name: str) -> DatabaseConfig:
        """A database by its name; `ConfigurationError` that lists the names if there is none."""
        try:
            return self.databases[name]
        except KeyError:
            known = ", ".join(sorted(self.databases)) or "none"
            raise ConfigurationError(
                f"no database {name!r} is configured (configured: {known})",
                hint=f"Add [databases.{name}] to {self.origin}, or use one of the names above.",
            ) from None

    def captures(self, name: str) -> bool:
        """Whether the keeper captures the changes of a database."""
        wanted = self.databases[name].capture
        return self.keeper.capture if wanted is None else wanted

    def inline_secrets(self) -> tuple[str, ...]:
        """The settings whose secret stands in the file itself: `databases.shop.url`."""
        urls = (
            f"databases.{name}.url"
            for name, database in self.databases.items()
            if isinstance(database.url, str) and _has_password(database.url)
        )
        keys = (
            f"repositories.{name}.{key}"
            for name, repository in self.repositories.items()
            for key in ("secret_access_key", "session_token")
            if isinstance(getattr(repository, key), str)
        )
        tokens = (
            f"databases.{name}.supabase.token"
            for name, database in self.databases.items()
            if isinstance(database.supabase.token, str)
        )
        return (*urls, *keys, *tokens, *self._inline_in_notify())

    def _inline_in_notify(self) -> Iterator[str]:
        notify = self.notify
        for key in ("slack", "apprise"):
            if any(isinstance(one, str) for one in getattr(notify, key)):
                yield f"notify.{key}"
        if isinstance(notify.ping, str):
            yield "notify.ping"
        if notify.mail is not None and isinstance(notify.mail.password, str):
            yield "notify.mail.password"
        for name, webhook in notify.webhooks.items():
            if isinstance(webhook.secret, str):
                yield f"notify.webhooks.{name}.secret"


def default_state_dir() -> Path:
    """The user's state folder, by the XDG convention."""
    base = os.environ.get("XDG_STATE_HOME")
    return (Path(base) if base else Path.home() / ".local" / "state") / "pgkeep"


def locate(explicit: Path | None, environment: Mapping[str, str] = os.environ) -> Path:
    """Which file to read: the one named, else the variable's, else here, else the user's."""
    if explicit is not None:
        return explicit
    if named := environment.get(CONFIG_VARIABLE):
        return Path(named)
    base = environment.get("XDG_CONFIG_HOME")
    users = (Path(base) if base else Path.home() / ".config") / "pgkeep" / DEFAULT_NAME
    here = Path(DEFAULT_NAME)
    return users if users.exists() and not here.exists() else here


def load(path: Path) -> Config:
    """Read and check a configuration file; every problem is a `ConfigurationError`."""
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as exc:
        raise ConfigurationError(
            f"there is no configuration at {str(path)!r}",
            hint="Run: pgkeep init, or name a file with --config.",
        ) from exc
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigurationError(f"cannot read {str(path)!r}", hint=f"{exc}.") from exc
    except tomllib.TOMLDecodeError as exc:
        raise ConfigurationError(f"{str(path)!r} is not valid TOML: {exc}") from exc
    return parse(document, origin=path)


def parse(document: dict[str, Any], *, origin: Path | None = None) -> Config:
    """Check a configuration that is already a dictionary."""
    if "origin" in document:
        raise ConfigurationError("unknown setting 'origin'")
    try:
        config = Config.model_validate({**document, "origin": origin})
    except ValidationError as exc:
        raise ConfigurationError(
            f"the configuration {str(origin)!r} is not right: {_first_problem(exc)}",
            hint="docs/reference.md lists every setting.",
        ) from exc
    if reserved := RESERVED_FOLDERS.intersection(config.databases):
        raise ConfigurationError(
            f"a database cannot be called {min(reserved)!r}: repositories use that name themselves"
        )
    return config


def _first_problem(error: ValidationError) -> str:
    # Of a secret there are two forms: what is said of the table tells more than "not a string".
    problems = error.errors(include_url=False, include_input=False)
    forms = ("str", SecretReference.__name__)
    problem = next((one for one in problems if one["loc"][-1:] != ("str",)), problems[0])
    where = ".".join(str(step) for step in problem["loc"] if step not in forms)
    return f"{where}: {problem['msg'].lower()}" if where else problem["msg"].lower()


def _has_password(url: str) -> bool:
    authority = url.partition("://")[2].partition("/")[0]
    return ("@" in authority and ":" in authority.rpartition("@")[0]) or "password=" in url
