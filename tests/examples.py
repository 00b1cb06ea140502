"""Backups that never were: records to test with, and a small repository that holds one."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any

from pgkeep.model import (
    FORMAT,
    BackupId,
    Column,
    Contents,
    DatabaseProperties,
    Kind,
    LargeObjectGrant,
    LargeObjects,
    Manifest,
    NotKept,
    ObjectName,
    Part,
    Role,
    SealedStream,
    SequenceValue,
    SnapshotPoint,
    StoredObject,
    TableContents,
    TableName,
    Tier,
    Totals,
)
from pgkeep.postgres.catalog import Relation
from pgkeep.repository.hostkeys import Epoch
from pgkeep.repository.instructions import restore_script
from pgkeep.repository.manifests import dump_contents
from pgkeep.repository.objects import StreamWriter
from pgkeep.repository.repository import Repository
from pgkeep.sealing import SigningKey, X25519Recipient
from pgkeep.stores import Store

MOMENT = datetime(2026, 1, 15, 6, 0, tzinfo=UTC)
ID = BackupId("20260115T060000Z-0123abcd")

CUSTOMERS = TableName("public", "customers")
CUSTOMERS_TEXT = b"1\tAda\n2\tGrace\n"


def object_name(text: str) -> ObjectName:
    """The name of an object that holds `text`."""
    return ObjectName(sha256(text.encode()).hexdigest())


def stream(text: str, plain_bytes: int = 10) -> SealedStream:
    """A stream of one object, which is stored nowhere."""
    stored = StoredObject(object_name(text), len(text))
    return SealedStream((stored,), plain_bytes, "0" * 64)


def relation(name: str = "t", **changes: Any) -> Relation:
    """A heap table of ten pages in schema public that anybody may read."""
    example = Relation(
        oid=16384,
        name=TableName("public", name),
        kind="r",
        unlogged=False,
        heap_bytes=10 * 8192,
        table_bytes=10 * 8192,
        is_heap=True,
        estimated_rows=1000,
        populated=True,
        rewritten=False,
        readable=True,
        rows_hidden=False,
        columns=(Column("id", "integer"),),
    )
    return replace(example, **changes)


def table(name: TableName = CUSTOMERS, **changes: Any) -> TableContents:
    """A table of two columns and two rows in one part."""
    example = TableContents(
        name=name,
        columns=(
            Column("id", "integer", not_null=True),
            Column("name", "text", collation='pg_catalog."C"', default="'nobody'::text"),
            Column("upper", "text", generated="upper(name)"),
        ),
        rows=2,
        heap_bytes=8192,
        parts=(Part(0, None, 2, stream(str(name))),),
        constraints=("customers_pkey PRIMARY KEY (id)",),
    )
    return replace(example, **changes)


def contents(**changes: Any) -> Contents:
    """A table of contents with something under every heading."""
    example = Contents(
        format=FORMAT,
        backup=ID,
        point=SnapshotPoint(
            MOMENT, "17.6 (Debian)", "7441860238124359719", 1, "0/16B3748", "739:741:739"
        ),
        database=DatabaseProperties(
            "shop", "UTF8", "C.UTF-8", "C.UTF-8", 8_000_000,
            (("", "search_path", '"$user", public'), ("app", "TimeZone", "Europe/Berlin")),
        ),
        schema=stream("schema"),
        roles_script=stream("roles"),
        roles=(Role("app", "LOGIN INHERIT", ("readers",)),),
        tables=(table(),),
        sequences=(SequenceValue(TableName("public", "customers_id_seq"), 2, True),),
        large_objects=LargeObjects(
            owners=((16500, "app"),),
            comments=((16500, "a picture"),),
            grants=((16500, (LargeObjectGrant("readers", "SELECT", grantable=False),)),),
            parts=(Part(16500, None, 1, stream("large objects")),),
        ),
        populated_matviews=(TableName("public", "totals"),),
        not_kept=(NotKept("rows of foreign table far.away", "they live on another server", False),),
    )  # fmt: skip
    return replace(example, **changes)


def manifest(**changes: Any) -> Manifest:
    """A manifest of objects that are stored nowhere."""
    example = Manifest(
        format=FORMAT,
        backup=ID,
        database="shop",
        kind=Kind.FULL,
        tier=Tier.DAILY,
        sequence=3,
        previous="f" * 64,
        host="backup-host",
        tool="pgkeep 0.1.0",
        server_version="17.6 (Debian)",
        started=MOMENT,
        finished=MOMENT + timedelta(seconds=2, milliseconds=250),
        seconds=2.25,
        epoch="0011223344556677",
        contents=stream("contents").objects,
        script=stream("script").objects,
        objects=stream("rows").objects,
        totals=Totals(1, 2, 2, 1, 8_000_000, 24, 24, 400, 400, 2, 0),
        not_kept=1,
    )
    return replace(example, **changes)


def manifest_in(store: Store, **changes: Any) -> Manifest:
    """A manifest whose three objects `store` holds."""
    stored = []
    for text in (b"contents", b"script", b"rows"):
        name = ObjectName(sha256(text).hexdigest())
        store.put(name.path, text)
        stored.append((StoredObject(name, len(text)),))
    listed = dict(zip(("contents", "script", "objects"), stored, strict=True))
    return manifest(**{**listed, **changes})


def publish_example(
    repository: Repository, epoch: Epoch, key: SigningKey, index: X25519Recipient
) -> Manifest:
    """A whole backup of one table, as `pgkeep.backup` files it."""
    store = repository.store

    def stored(text: bytes, *also_for: X25519Recipient) -> SealedStream:
        writer = StreamWriter(store.put, [epoch.key.recipient, *also_for], level=1)
        writer.write(text)
        return writer.close()

    repository.prepare(epoch, key.public)
    rows = stored(CUSTOMERS_TEXT)
    objects = LargeObjects()
    described = contents(
        schema=None,
        roles_script=None,
        tables=(table(parts=(Part(0, None, 2, rows),)),),
        large_objects=objects,
    )
    made = manifest(
        kind=Kind.DATA,
        epoch=epoch.id,
        contents=stored(dump_contents(described), index).objects,
        script=stored(restore_script(described, Kind.DATA).encode()).objects,
        objects=rows.objects,
    )
    repository.publish(made, key)
    return made
