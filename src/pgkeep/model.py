"""The words of pgkeep as types: what a backup is made of. Data only, no behaviour with effects.

Every record is a frozen dataclass that JSON can hold; `pgkeep.repository.manifests` reads and
writes them. Times are aware and in UTC; sizes are bytes.
"""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

from pydantic_core import core_schema

FORMAT = 1

RESERVED_FOLDERS = frozenset(
    {"objects", "keys", "ledger", "condemned", "tmp", "lock", "factors", "signoffs", "audits"}
)
"""Names that a repository has for itself, so that no database can be called so."""

_IDENTIFIER_AS_IT_IS = re.compile(r"[a-z_][a-z0-9_$]*")
_OBJECT_NAME = re.compile(r"[0-9a-f]{64}")
_LSN = re.compile(r"([0-9A-Fa-f]{1,8})/([0-9A-Fa-f]{1,8})")
_BACKUP_ID = re.compile(r"\d{8}T\d{6}Z-[0-9a-f]{8}")


def quote_identifier(name: str) -> str:
    """`name` as SQL reads it, always in double quotes, so no keyword list is needed."""
    return '"' + name.replace('"', '""') + '"'


class Kind(StrEnum):
    """What a backup holds."""

    FULL = "full"
    SCHEMA = "schema"
    DATA = "data"

    @property
    def has_schema(self) -> bool:
        return self is not Kind.DATA

    @property
    def has_data(self) -> bool:
        return self is not Kind.SCHEMA


class Tier(StrEnum):
    """Under which heading a backup is filed, and so how long it is kept."""

    DAILY = "daily"
    WEEKLY = "weekly"
    MONTHLY = "monthly"
    SCHEMA = "schema"
    MANUAL = "manual"

    def folder(self, moment: datetime) -> str:
        """The folder for a backup begun at `moment`, as people look for it."""
        match self:
            case Tier.WEEKLY:
                year, week, _ = moment.isocalendar()
                return f"weekly/week_{week:02}_{year}"
            case Tier.MONTHLY:
                return f"monthly/{moment:%Y-%m}"
            case _:
                return f"{self.value}/{moment:%Y-%m-%d}"


class _CheckedText(str):
    """Text of one form, checked when it is made, by hand or from JSON."""

    __slots__ = ()

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> core_schema.CoreSchema:
        return core_schema.no_info_after_validator_function(cls, core_schema.str_schema())


class ObjectName(_CheckedText):
    """The SHA-256 of a stored object's bytes, as 64 hexadecimal digits."""

    __slots__ = ()

    def __new__(cls, value: str) -> ObjectName:
        if not _OBJECT_NAME.fullmatch(value):
            raise ValueError(f"not an object name: {value!r}")
        return super().__new__(cls, value)

    @property
    def path(self) -> str:
        return f"objects/{self[:2]}/{self}"


class BackupId(_CheckedText):
    """When a backup began (UTC) and eight random digits: sorts by time, never collides."""

    __slots__ = ()

    def __new__(cls, value: str) -> BackupId:
        if not _BACKUP_ID.fullmatch(value):
            raise ValueError(f"not a backup id: {value!r}")
        return super().__new__(cls, value)

    @classmethod
    def begin(cls, moment: datetime) -> BackupId:
        return cls(f"{moment.astimezone(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(4)}")


class Lsn(int):
    """A position in the write-ahead log; as text, `0/16B3748`."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> Lsn:
        """`ValueError` if it is none."""
        match = _LSN.fullmatch(text)
        if not match:
            raise ValueError(f"not an LSN: {text!r}")
        return cls(int(match[1], 16) << 32 | int(match[2], 16))

    def __str__(self) -> str:
        return f"{self >> 32:X}/{self & 0xFFFFFFFF:X}"

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> core_schema.CoreSchema:
        return core_schema.no_info_after_validator_function(
            cls.parse,
            core_schema.str_schema(),
            serialization=core_schema.plain_serializer_function_ser_schema(str),
        )


@dataclass(frozen=True, slots=True, order=True)
class TableName:
    """A relation by schema and name, unquoted."""

    schema: str
    name: str

    @property
    def sql(self) -> str:
        return f"{quote_identifier(self.schema)}.{quote_identifier(self.name)}"

    def __str__(self) -> str:
        """As PostgreSQL would print it: quoted only where it must be."""
        return ".".join(
            part if _IDENTIFIER_AS_IT_IS.fullmatch(part) else quote_identifier(part)
            for part in (self.schema, self.name)
        )


@dataclass(frozen=True, slots=True)
class StoredObject:
    """A file in the store: its name and its size."""

    name: ObjectName
    size_bytes: int


@dataclass(frozen=True, slots=True)
class SealedStream:
    """Bytes kept as one or more objects, in order: what they were, and how to check them.

    `blake3` is over the plain bytes of all objects together, hexadecimal.
    """

    objects: tuple[StoredObject, ...]
    plain_bytes: int
    blake3: str

    @property
    def stored_bytes(self) -> int:
        return sum(item.size_bytes for item in self.objects)


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table, as the catalog of the snapshot has it."""

    name: str
    type: str
    not_null: bool = False
    collation: str = ""
    default: str = ""
    identity: str = ""
    generated: str = ""

    @property
    def is_stored_in_copy(self) -> bool:
        """Generated columns are computed anew; COPY neither reads nor takes them."""
        return not self.generated


@dataclass(frozen=True, slots=True)
class Part:
    """The rows of a table between two heap pages, as COPY text.

    `first_page` is inclusive, `end_page` exclusive and None for the last part of a table, which
    has no end: pages added since the plan was made are in it.
    """

    first_page: int
    end_page: int | None
    rows: int
    text: SealedStream
    horizon: int = 0
    """Every transaction before this one (64-bit id) had ended when these rows were seen last."""


@dataclass(frozen=True, slots=True)
class TableContents:
    """A table that holds rows of its own, with all parts of it.

    `condition` is the WHERE clause under which an extension asked for its table's rows to be
    kept, and empty otherwise. `constraints` are the table's own (primary key, unique, check) as
    `pg_get_constraintdef` writes them.
    """

    name: TableName
    columns: tuple[Column, ...]
    rows: int
    heap_bytes: int
    parts: tuple[Part, ...]
    condition: str = ""
    constraints: tuple[str, ...] = ()
    unlogged: bool = False
    load_into: TableName | None = None
    """The partitioned table to load through, where a row's partition may change (enum hashes)."""
    key: str = ""
    """What the text depends on besides the rows, hashed; empty if that cannot be known."""

    @property
    def load_name(self) -> TableName:
        return self.load_into or self.name

    @property
    def text_bytes(self) -> int:
        return sum(part.text.plain_bytes for part in self.parts)

    @property
    def stored_bytes(self) -> int:
        return sum(part.text.stored_bytes for part in self.parts)

    @property
    def copied_columns(self) -> tuple[Column, ...]:
        return tuple(column for column in self.columns if column.is_stored_in_copy)


@dataclass(frozen=True, slots=True)
class SequenceValue:
    """Where a sequence stood."""

    name: TableName
    last_value: int
    is_called: bool


@dataclass(frozen=True, slots=True)
class LargeObjectGrant:
    """A privilege on a large object; no grantee means everybody."""

    grantee: str
    privilege: str
    grantable: bool


@dataclass(frozen=True, slots=True)
class LargeObjects:
    """All large objects: who owns them, and their bytes as COPY text of (oid, offset, bytes)."""

    owners: tuple[tuple[int, str], ...] = ()
    comments: tuple[tuple[int, str], ...] = ()
    grants: tuple[tuple[int, tuple[LargeObjectGrant, ...]], ...] = ()
    """Only of those whose privileges are not the usual ones; the owner's own are among them."""
    parts: tuple[Part, ...] = ()

    @property
    def rows(self) -> int:
        return sum(part.rows for part in self.parts)


@dataclass(frozen=True, slots=True)
class Role:
    """A role on which something in the database depends, without its password."""

    name: str
    attributes: str
    member_of: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SnapshotPoint:
    """Which moment of which server a backup shows."""

    taken: datetime
    server_version: str
    system_identifier: str
    timeline: int
    lsn: str
    snapshot: str
    horizon: int = 0
    """The oldest transaction that still ran (the snapshot's xmin), as a 64-bit id."""


@dataclass(frozen=True, slots=True)
class DatabaseProperties:
    """What belongs to the database itself and to no schema in it."""

    name: str
    encoding: str
    collate: str
    ctype: str
    size_bytes: int
    settings: tuple[tuple[str, str, str], ...] = ()
    """(role or '', parameter, value) of ALTER DATABASE ... SET and ALTER ROLE ... IN DATABASE."""
    has_public: bool = True
    """Whether schema public is there: a new database has it, but it may have been dropped."""
    provider: str = "libc"
    """Of the locale: `libc`, `icu` or `builtin`. The other two have a `locale` of their own."""
    locale: str = ""
    comment: str = ""
    has_grants: bool = False
    """Whether something was ever granted on it or revoked: `grants` are all there are, then."""
    grants: tuple[LargeObjectGrant, ...] = ()
    """Those of others than its owner."""


@dataclass(frozen=True, slots=True)
class NotKept:
    """Something that the database has and the backup has not, and why."""

    what: str
    why: str
    needs_attention: bool = True
    """Whether somebody could do something about it."""


@dataclass(frozen=True, slots=True)
class PlatformGrant:
    """A privilege on an object of the platform's that a user's role granted."""

    kind: str
    """As GRANT names it: TABLE, SEQUENCE, FUNCTION, SCHEMA."""
    target: str
    """The object as SQL names it, quoted."""
    grantee: str
    """Empty for PUBLIC."""
    privilege: str
    columns: str = ""
    """The column, quoted, where only one is meant."""
    grantable: bool = False


@dataclass(frozen=True, slots=True)
class Queue:
    """A message queue of pgmq: its tables are made by `pgmq.create`, their rows are kept."""

    name: str
    unlogged: bool = False
    partitioned: bool = False


@dataclass(frozen=True, slots=True)
class PlatformTrigger:
    """A user's trigger on a table of the platform's."""

    table: TableName
    name: str


@dataclass(frozen=True, slots=True)
class Hosting:
    """What a platform manages in a database, and what of it is the user's all the same.

    Of a managed schema the platform makes the structure; a backup keeps rows of it, and what users
    have added. `secrets` and `jobs` are sealed apart from the contents: only operators open them.
    """

    platform: str
    roles: tuple[str, ...]
    """Roles whose objects are the platform's."""
    schemas: tuple[str, ...]
    """Schemas of which the platform makes the structure."""
    versions: tuple[tuple[str, str], ...] = ()
    """(schema, the name of its last migration), for telling how far two projects are apart."""
    triggers: tuple[PlatformTrigger, ...] = ()
    grants: tuple[PlatformGrant, ...] = ()
    queues: tuple[Queue, ...] = ()
    role_settings: tuple[tuple[str, str, str], ...] = ()
    """(role, parameter, value) of ALTER ROLE ... SET in all databases."""
    extensions: tuple[tuple[str, str, str], ...] = ()
    """(name, version, schema)."""
    secrets: SealedStream | None = None
    secrets_count: int = 0
    secret_columns: tuple[tuple[TableName, str], ...] = ()
    """Columns whose foreign key refers to a secret's id, which is another one once restored."""
    jobs: SealedStream | None = None
    jobs_count: int = 0
    passwords: SealedStream | None = None
    passwords_count: int = 0
    treated: tuple[str, ...] = ()
    """What is put back in another way than rows and definitions are, in words."""
    left: tuple[str, ...] = ()
    """What the platform makes anew and the backup leaves to it, in words."""

    def streams(self) -> tuple[SealedStream, ...]:
        found = (self.secrets, self.jobs, self.passwords)
        return tuple(stream for stream in found if stream is not None)


@dataclass(frozen=True, slots=True)
class FileRecord:
    """A file of an object storage beside the database, and where its bytes are kept.

    They are `size_bytes` from `offset` on in the plain bytes of pack number `pack`.
    """

    bucket: str
    name: str
    version: str
    etag: str
    size_bytes: int
    sha256: str
    pack: int
    offset: int
    mime_type: str = ""
    cache_control: str = ""
    owner_id: str = ""
    created: str = ""
    user_metadata: str = ""
    """JSON; empty if there is none."""


@dataclass(frozen=True, slots=True)
class BucketFiles:
    """How many files of a bucket are kept."""

    bucket: str
    files: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class FilesContents:
    """Files beside the database: small ones packed together, large ones each in a pack of its own.

    `listing` is a stream of `FileRecord`s as JSON, one a line, that the host can open too.
    """

    buckets: tuple[BucketFiles, ...]
    packs: tuple[SealedStream, ...]
    listing: SealedStream

    @property
    def files(self) -> int:
        return sum(one.files for one in self.buckets)

    @property
    def size_bytes(self) -> int:
        return sum(one.size_bytes for one in self.buckets)

    def streams(self) -> tuple[SealedStream, ...]:
        return (self.listing, *self.packs)


@dataclass(frozen=True, slots=True)
class Contents:
    """The private table of contents of a backup: sealed, since it names things."""

    format: int
    backup: BackupId
    point: SnapshotPoint
    database: DatabaseProperties
    schema: SealedStream | None
    roles_script: SealedStream | None
    roles: tuple[Role, ...]
    tables: tuple[TableContents, ...]
    sequences: tuple[SequenceValue, ...]
    large_objects: LargeObjects
    populated_matviews: tuple[TableName, ...]
    not_kept: tuple[NotKept, ...]
    full_read: datetime | None = None
    """When everything was last read out of the database rather than used again."""
    hosting: Hosting | None = None
    """What of the database a platform manages; None for a database of the user's own."""
    files: FilesContents | None = None
    """Files beside the database, where they are kept too."""

    @property
    def rows(self) -> int:
        return sum(table.rows for table in self.tables)

    def streams(self) -> tuple[SealedStream, ...]:
        """Every sealed stream that the contents name."""
        return (
            *(stream for stream in (self.schema, self.roles_script) if stream is not None),
            *(part.text for table in self.tables for part in table.parts),
            *(part.text for part in self.large_objects.parts),
            *(self.hosting.streams() if self.hosting else ()),
            *(self.files.streams() if self.files else ()),
        )


CLOCK_TOLERANCE = timedelta(minutes=5)
"""How far two clocks may be apart and still be called right."""


def is_ahead(moment: datetime, now: datetime) -> bool:
    """Whether it seems to come from the future: a clock was wrong then, or is wrong here."""
    return moment > now + CLOCK_TOLERANCE


@dataclass(frozen=True, slots=True)
class Totals:
    """Sizes of a backup. They are public: whoever sees the store could add them up anyway."""

    tables: int
    rows: int
    rows_read: int
    large_objects: int
    database_bytes: int
    text_bytes: int
    read_bytes: int
    """Of `text_bytes`, those that left the database for this backup."""
    stored_bytes: int
    added_bytes: int
    """Of `stored_bytes`, those that this backup added to the store."""
    parts_read: int
    parts_reused: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """The public, signed list that makes objects a backup. It names no table and no column."""

    format: int
    backup: BackupId
    database: str
    kind: Kind
    tier: Tier
    sequence: int
    previous: str
    host: str
    tool: str
    server_version: str
    started: datetime
    finished: datetime
    seconds: float
    epoch: str
    contents: tuple[StoredObject, ...]
    script: tuple[StoredObject, ...]
    objects: tuple[StoredObject, ...]
    totals: Totals
    not_kept: int = 0
    """How many things of the database are not in the backup; the contents say which and why."""
    ledger: str = ""
    """Where the host's ledger stood: the number of its last entry and that line's SHA-256."""

    @property
    def folder(self) -> str:
        return f"{self.database}/{self.tier.folder(self.started)}/{self.backup}"

    @property
    def path(self) -> str:
        return f"{self.folder}/manifest.json"

    @property
    def all_objects(self) -> tuple[StoredObject, ...]:
        return (*self.contents, *self.script, *self.objects)

    def is_ahead_of(self, now: datetime) -> bool:
        """See `is_ahead`."""
        return is_ahead(self.started, now)


@dataclass(frozen=True, slots=True)
class Segment:
    """The public, signed head of one stretch of the journal. It names no table and no column.

    A *chain* is what one replication slot gave, segment by segment: each names the one before.
    """

    format: int
    database: str
    chain: str
    """16 hexadecimal digits."""
    sequence: int
    previous: str
    """The SHA-256 of the head before it in the chain; empty for the first."""
    start: Lsn
    """Where the one before it ends; for the first, where the slot begins."""
    end: Lsn
    """All transactions that committed before this are in the chain up to here."""
    begins_whole: bool
    """Whether it begins with a transaction, or in the middle of one."""
    ends_whole: bool
    """Whether it ends with a whole transaction. If not, the next one goes on with the same."""
    covered: datetime
    """The server's clock when it had told of all that is in here."""
    first_commit: datetime | None
    last_commit: datetime | None
    transactions: int
    changes: int
    schema_changes: int
    barriers: int
    """Of the schema changes, those that a replay cannot do again: it stops before them."""
    host: str
    tool: str
    server_version: str
    system_identifier: str
    timeline: int
    epoch: str
    plain_bytes: int
    body_bytes: int
    body_sha256: str
    catalog: str = ""
    """A digest of definitions, for what nothing tells of: of tables, where there are no event
    triggers; of all that a schema has, where there are. Empty if it was not looked at."""
