"""Noticing schema changes that no event trigger told of: where one was disabled, or the server does
not fire them for a role or a command, or nobody was looking. Less exact: told when it is seen, not
when it happened.
"""

from __future__ import annotations

from hashlib import md5

from pgkeep.model import Lsn
from pgkeep.postgres.identity import current_lsn
from pgkeep.postgres.session import Connection

# Sums do not depend on the order of rows. What TRUNCATE, VACUUM and ANALYZE change is left out.
_FINGERPRINT = """
    SELECT pg_catalog.concat_ws(' ',
      (SELECT pg_catalog.sum(pg_catalog.hashtextextended(pg_catalog.concat_ws(' ', c.oid,
                c.relname, c.relnamespace, c.relkind, c.relpersistence, c.relreplident,
                c.relispartition, c.reloftype), 0))
         FROM pg_catalog.pg_class c
        WHERE c.oid >= 16384 AND c.relkind IN ('r', 'p', 'f', 'v', 'm', 'S')
          AND c.relpersistence <> 't'
          AND c.relnamespace IS DISTINCT FROM pg_catalog.to_regnamespace('pgkeep')),
      (SELECT pg_catalog.sum(pg_catalog.hashtextextended(pg_catalog.concat_ws(' ', a.attrelid,
                a.attnum, a.attname, a.atttypid, a.atttypmod, a.attnotnull, a.attisdropped,
                a.attidentity, a.attgenerated), 0))
         FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_class c ON c.oid = a.attrelid
        WHERE c.oid >= 16384 AND a.attnum > 0 AND c.relkind IN ('r', 'p')
          AND c.relpersistence <> 't'),
      (SELECT pg_catalog.sum(pg_catalog.hashtextextended(pg_catalog.concat_ws(' ', oid, polname,
                polrelid, polcmd, polpermissive, polroles, polqual, polwithcheck), 0))
         FROM pg_catalog.pg_policy),
      (SELECT pg_catalog.sum(pg_catalog.hashtextextended(pg_catalog.concat_ws(' ', oid, proname,
                pronamespace, proargtypes, prorettype, prosecdef, proconfig, prosrc), 0))
         FROM pg_catalog.pg_proc WHERE oid >= 16384
          AND pronamespace IS DISTINCT FROM pg_catalog.to_regnamespace('pgkeep')),
      (SELECT pg_catalog.sum(pg_catalog.hashtextextended(pg_catalog.concat_ws(' ', t.oid, t.tgname,
                t.tgrelid, t.tgfoid, t.tgtype, t.tgenabled), 0))
         FROM pg_catalog.pg_trigger t WHERE NOT t.tgisinternal),
      (SELECT pg_catalog.sum(pg_catalog.hashtextextended(pg_catalog.concat_ws(' ', oid, conname,
                conrelid, contypid, contype, convalidated, conkey, confrelid, confkey, conbin), 0))
         FROM pg_catalog.pg_constraint WHERE oid >= 16384),
      (SELECT pg_catalog.sum(pg_catalog.hashtextextended(pg_catalog.concat_ws(' ', adrelid, adnum,
                adbin), 0)) FROM pg_catalog.pg_attrdef WHERE oid >= 16384),
      (SELECT pg_catalog.sum(pg_catalog.hashtextextended(pg_catalog.concat_ws(' ', oid, extname,
                extversion, extnamespace), 0)) FROM pg_catalog.pg_extension),
      (SELECT pg_catalog.sum(pg_catalog.hashtextextended(pg_catalog.concat_ws(' ', oid, pubname,
                puballtables, pubinsert, pubupdate, pubdelete, pubtruncate, pubviaroot), 0))
         FROM pg_catalog.pg_publication WHERE pubname NOT LIKE 'pgkeep\\_%'))"""


def digest(connection: Connection) -> str:
    """Of all definitions as they are now."""
    row = connection.execute(_FINGERPRINT.encode()).fetchone()
    return md5(str(row[0]).encode(), usedforsecurity=False).hexdigest() if row else ""


class CatalogWatch:
    """Compares the definitions of tables now with those before."""

    def __init__(self, connection: Connection, kept: str = "") -> None:
        """`kept` is what the journal's newest segment has as `settled`, if anything."""
        self._connection = connection
        self._known = self.settled = kept or digest(connection)
        self._suspected_before: Lsn | None = None
        self._told = False
        self.look()

    settled: str
    """A digest of the definitions of which the journal tells, or has nothing to tell."""

    def settle(self) -> str:
        """A segment is about to be kept that tells of schema changes: the digest that goes with it.

        It may be of a few more than it tells; those come in the next one.
        """
        self._told = True
        self.look()
        self.settled = self._known
        return self.settled

    def schema_changed(self) -> None:
        """The journal has told of a schema change: that explains what is other than before."""
        self._told = True

    def look(self) -> None:
        """Compare. What is other may be told of by what the slot gives up to where it is now."""
        found = digest(self._connection)
        if found == self._known:
            self._told = False  # what was told was of something else, or is known by now
            return
        self._known = found
        self._suspected_before = current_lsn(self._connection)

    def unexplained(self, kept: Lsn) -> bool:
        """Whether there is a change that the journal up to `kept` should have told of, and has not.

        Says so once.
        """
        if self._suspected_before is None or kept < self._suspected_before:
            return False
        self._suspected_before = None
        told, self._told = self._told, False
        self.settled = self._known
        return not told
