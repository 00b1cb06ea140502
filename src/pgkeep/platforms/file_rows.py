"""Which files there are: rows of storage.objects, read in the backup's snapshot or anew."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pgkeep.platforms.supabase import OBJECTS, may_read
from pgkeep.postgres.session import Connection


@dataclass(frozen=True, slots=True)
class FileRow:
    """A file as the database lists it."""

    bucket: str
    name: str
    version: str
    etag: str
    size_bytes: int
    mime_type: str
    cache_control: str
    owner_id: str
    created: str
    user_metadata: str

    @property
    def identity(self) -> tuple[str, str, str, str, int]:
        """What is another where the bytes may be."""
        return self.bucket, self.name, self.version, self.etag, self.size_bytes


def file_rows(
    connection: Connection, buckets: Sequence[str] = (), name: tuple[str, str] | None = None
) -> tuple[FileRow, ...]:
    """All files, or those of some buckets, or the one of a bucket and name.

    They are held in memory: about half a kilobyte each.
    """
    if not may_read(connection, OBJECTS):
        return ()
    newer = {
        row[0]
        for row in connection.execute(
            "SELECT attname::text FROM pg_catalog.pg_attribute"
            " WHERE attrelid = 'storage.objects'::pg_catalog.regclass AND NOT attisdropped"
        ).fetchall()
    }
    owner = "o.owner_id" if "owner_id" in newer else "o.owner::text"
    user = "o.user_metadata::text" if "user_metadata" in newer else "NULL"
    wanted = ["o.bucket_id IS NOT NULL", "o.name IS NOT NULL"]
    values: list[object] = []
    if buckets:
        wanted.append("o.bucket_id = ANY (%s)")
        values.append(list(buckets))
    if name is not None:
        wanted += ["o.bucket_id = %s", "o.name = %s"]
        values += name
    rows = connection.execute(
        "SELECT o.bucket_id, o.name, COALESCE(o.version, ''), COALESCE(o.metadata ->> 'eTag', ''),"
        " COALESCE((o.metadata ->> 'size')::int8, -1), COALESCE(o.metadata ->> 'mimetype', ''),"
        f" COALESCE(o.metadata ->> 'cacheControl', ''), COALESCE({owner}, ''),"
        f" COALESCE(o.created_at::text, ''), COALESCE({user}, '')"
        f"  FROM storage.objects o WHERE {' AND '.join(wanted)} ORDER BY 1, 2".encode(),
        values,
    ).fetchall()
    return tuple(FileRow(*row) for row in rows)
