"""What capture puts into the database, as SQL: a schema of its own, two publications, and event
triggers that write each schema change into the WAL and keep the publications in step.

The source must never suffer. A table may be in a publication of updates or deletes only as long as
it has a replica identity, or the application's statements on it fail. So one publication of inserts
and truncations is for all tables, which is harmless; the other one has just the tables that have an
identity, and is put in step inside the very transaction that changes a table. An error in our
functions never ends a statement of the application: it is written to the server's log.
"""

from __future__ import annotations

SCHEMA = "pgkeep"
ROWS = "pgkeep_rows"
CHANGES = "pgkeep_changes"
MESSAGE_PREFIX = "pgkeep.ddl"

# A table in the publication of updates and deletes. The index must be one that the server takes as
# an identity (relcache.c, RelationGetIndexList), and none of its columns generated: those are not
# published. Version 18 refuses updates where generated columns belong to a FULL identity.
_FIT = """
    SELECT c.oid, n.nspname, c.relname
      FROM pg_catalog.pg_class c
      JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
     WHERE c.relkind = 'r' AND c.relpersistence = 'p' AND c.oid >= 16384
       AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pgkeep')
       AND CASE c.relreplident
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

# Tables whose updates and deletes cannot be captured, and why there is no row for others: the
# same kinds of tables as above.
WITHOUT_IDENTITY = f"""
    SELECT n.nspname, c.relname
      FROM pg_catalog.pg_class c
      JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
     WHERE c.relkind = 'r' AND c.relpersistence = 'p' AND c.oid >= 16384
       AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pgkeep')
       AND c.oid NOT IN (SELECT oid FROM ({_FIT}) fit)
     ORDER BY 1, 2"""

CREATE_SCHEMA = f"CREATE SCHEMA {SCHEMA}"
COMMENT_SCHEMA = (
    f"COMMENT ON SCHEMA {SCHEMA} IS"
    " 'pgkeep captures changes with this. To take it away: pgkeep capture --remove'"
)
GRANT_SCHEMA = f"GRANT USAGE ON SCHEMA {SCHEMA} TO PUBLIC"

CREATE_ROWS = f"CREATE PUBLICATION {ROWS} FOR ALL TABLES WITH (publish = 'insert, truncate')"
CREATE_CHANGES = f"CREATE PUBLICATION {CHANGES} WITH (publish = 'update, delete')"

KEEP_IN_STEP = f"""
CREATE OR REPLACE FUNCTION {SCHEMA}.keep_in_step() RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
    item record;
BEGIN
    FOR item IN
        SELECT p.nspname, p.relname, false AS fit
          FROM (SELECT r.prrelid AS oid, n.nspname, c.relname
                  FROM pg_catalog.pg_publication_rel r
                  JOIN pg_catalog.pg_publication b ON b.oid = r.prpubid
                  JOIN pg_catalog.pg_class c ON c.oid = r.prrelid
                  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
                 WHERE b.pubname = '{CHANGES}') p
         WHERE p.oid NOT IN (SELECT oid FROM ({_FIT}) f)
        UNION ALL
        SELECT f.nspname, f.relname, true
          FROM ({_FIT}) f
         WHERE f.oid NOT IN (
               SELECT r.prrelid FROM pg_catalog.pg_publication_rel r
                 JOIN pg_catalog.pg_publication b ON b.oid = r.prpubid
                WHERE b.pubname = '{CHANGES}')
    LOOP
        BEGIN
            EXECUTE pg_catalog.format('ALTER PUBLICATION {CHANGES} %s TABLE ONLY %I.%I',
                CASE WHEN item.fit THEN 'ADD' ELSE 'DROP' END, item.nspname, item.relname);
        EXCEPTION WHEN OTHERS THEN
            RAISE LOG 'pgkeep: publication {CHANGES}: %', SQLERRM;
        END;
    END LOOP;
END
$function$"""

# The caller's own settings are looked at by the caller's own rights; what needs ours comes after.
RECORD = f"""
CREATE OR REPLACE FUNCTION {SCHEMA}.record(
    event text, tag text, statement text, role text, path text, detail jsonb) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
    PERFORM pg_catalog.pg_logical_emit_message(true, '{MESSAGE_PREFIX}',
        pg_catalog.jsonb_build_object(
            'version', 1, 'event', event, 'tag', tag, 'query', statement, 'role', role,
            'session_role', session_user, 'search_path', path, 'at', pg_catalog.clock_timestamp(),
            'objects', detail)::text);
    IF event <> 'table_rewrite' THEN
        PERFORM {SCHEMA}.keep_in_step();
    END IF;
END
$function$"""

# What keep_in_step does is no change of the schema, nor is what leaves definitions as they are.
_NOT_OURS = """o.schema_name IS DISTINCT FROM 'pgkeep'
       AND o.object_identity NOT LIKE '%in publication pgkeep\\_changes'"""
_HARMLESS = "'REFRESH MATERIALIZED VIEW', 'REINDEX'"

ON_COMMAND = f"""
CREATE OR REPLACE FUNCTION {SCHEMA}.on_command() RETURNS event_trigger
LANGUAGE plpgsql AS $function$
DECLARE
    objects pg_catalog.jsonb;
BEGIN
    SELECT pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object(
               'type', o.object_type, 'schema', o.schema_name, 'identity', o.object_identity,
               'command', o.command_tag, 'in_extension', o.in_extension))
      INTO objects
      FROM pg_catalog.pg_event_trigger_ddl_commands() o
     WHERE {_NOT_OURS} AND (o.schema_name IS NULL OR o.schema_name NOT LIKE 'pg\\_temp%');
    IF objects IS NOT NULL AND TG_TAG NOT IN ({_HARMLESS}) THEN
        PERFORM {SCHEMA}.record(TG_EVENT, TG_TAG, pg_catalog.current_query(), current_user::text,
            pg_catalog.current_setting('search_path'), objects);
    END IF;
EXCEPTION WHEN OTHERS THEN
    RAISE LOG 'pgkeep: a schema change was not recorded: %', SQLERRM;
END
$function$"""

ON_DROP = f"""
CREATE OR REPLACE FUNCTION {SCHEMA}.on_drop() RETURNS event_trigger
LANGUAGE plpgsql AS $function$
DECLARE
    objects pg_catalog.jsonb;
BEGIN
    SELECT pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object(
               'type', o.object_type, 'schema', o.schema_name, 'identity', o.object_identity,
               'command', TG_TAG, 'in_extension', false))
      INTO objects
      FROM pg_catalog.pg_event_trigger_dropped_objects() o
     WHERE {_NOT_OURS} AND o.original AND NOT o.is_temporary;
    IF objects IS NOT NULL AND TG_TAG NOT IN ({_HARMLESS}) THEN
        PERFORM {SCHEMA}.record(TG_EVENT, TG_TAG, pg_catalog.current_query(), current_user::text,
            pg_catalog.current_setting('search_path'), objects);
    END IF;
EXCEPTION WHEN OTHERS THEN
    RAISE LOG 'pgkeep: a schema change was not recorded: %', SQLERRM;
END
$function$"""

ON_REWRITE = f"""
CREATE OR REPLACE FUNCTION {SCHEMA}.on_rewrite() RETURNS event_trigger
LANGUAGE plpgsql AS $function$
DECLARE
    objects pg_catalog.jsonb;
BEGIN
    SELECT pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object(
               'type', 'table', 'schema', n.nspname, 'command', TG_TAG, 'in_extension', false,
               'identity', pg_catalog.format('%I.%I', n.nspname, c.relname)))
      INTO objects
      FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
     WHERE c.oid = pg_catalog.pg_event_trigger_table_rewrite_oid() AND c.relpersistence <> 't';
    IF objects IS NOT NULL AND TG_TAG NOT IN ({_HARMLESS}) THEN
        PERFORM {SCHEMA}.record(TG_EVENT, TG_TAG, pg_catalog.current_query(), current_user::text,
            pg_catalog.current_setting('search_path'), objects);
    END IF;
EXCEPTION WHEN OTHERS THEN
    RAISE LOG 'pgkeep: a rewrite of a table was not recorded: %', SQLERRM;
END
$function$"""

FUNCTIONS = (KEEP_IN_STEP, RECORD, ON_COMMAND, ON_DROP, ON_REWRITE)

EVENT_TRIGGERS = {
    "pgkeep_command": ("ddl_command_end", "on_command"),
    "pgkeep_drop": ("sql_drop", "on_drop"),
    "pgkeep_rewrite": ("table_rewrite", "on_rewrite"),
}


def create_event_trigger(name: str) -> str:
    """The statement that makes one of `EVENT_TRIGGERS`."""
    event, function = EVENT_TRIGGERS[name]
    return f"CREATE EVENT TRIGGER {name} ON {event} EXECUTE FUNCTION {SCHEMA}.{function}()"


def enable_event_trigger(name: str) -> str:
    """Also for sessions that restore something, whose triggers are quiet otherwise."""
    return f"ALTER EVENT TRIGGER {name} ENABLE ALWAYS"


IN_STEP = f"SELECT {SCHEMA}.keep_in_step()"

REMOVAL = (
    *(f"DROP EVENT TRIGGER IF EXISTS {name}" for name in EVENT_TRIGGERS),
    f"DROP PUBLICATION IF EXISTS {ROWS}",
    f"DROP PUBLICATION IF EXISTS {CHANGES}",
    f"DROP SCHEMA IF EXISTS {SCHEMA} CASCADE",
)
