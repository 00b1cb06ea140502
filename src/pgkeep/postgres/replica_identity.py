"""Which tables have a replica identity that updates and deletes can be told by.

Capture publishes the changes of just these, and a restore names all others.
"""

from __future__ import annotations

from typing import LiteralString

# Of a table `c` in pg_class. The index must be one that the server takes as an identity
# (relcache.c, RelationGetIndexList), and none of its columns generated: those are not published.
# Version 18 refuses updates where generated columns belong to a FULL identity.
HAS_IDENTITY: LiteralString = """
    CASE c.relreplident
        WHEN 'f' THEN NOT EXISTS (
            SELECT FROM pg_catalog.pg_attribute a
             WHERE a.attrelid = c.oid AND a.attgenerated <> '' AND NOT a.attisdropped)
        ELSE EXISTS (
            SELECT FROM pg_catalog.pg_index i
             WHERE i.indrelid = c.oid AND i.indisvalid AND i.indisunique AND i.indimmediate
               AND CASE c.relreplident WHEN 'd' THEN i.indisprimary
                                       WHEN 'i' THEN i.indisreplident ELSE false END
               AND NOT EXISTS (
                   SELECT FROM pg_catalog.pg_attribute a
                    WHERE a.attrelid = c.oid AND a.attnum = ANY (i.indkey)
                      AND a.attgenerated <> ''))
        END"""
