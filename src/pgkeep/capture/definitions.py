"""What capture puts into the database, as SQL: a schema of its own, publications, and event
triggers that write each schema change into the WAL and keep the publications in step.

The source must never suffer. A table may be in a publication of updates or deletes only as long as
it has a replica identity, or the application's statements on it fail. So one publication of inserts
and truncations is for all tables, which is harmless; others have just the tables that have an
identity, and are put in step inside the very transaction that changes a table. An error in our
functions never ends a statement of the application: it is written to the server's log.

ALTER PUBLICATION locks the publication until its transaction ends (since version 15). With a
single one, migrations in two sessions would wait for each other, or deadlock. So there are several,
a table goes into one that nobody holds, and who finds none gives up and says so in the journal.
Nobody waits for a lock: advisory locks tell which publication is free.
"""

from __future__ import annotations

from pgkeep.postgres import capturing
from pgkeep.postgres.capturing import CHANGES, ROWS, SCHEMA
from pgkeep.postgres.ddl import LONGEST_QUERY, PREFIX
from pgkeep.postgres.replica_identity import HAS_IDENTITY

_LOCK_CLASS = 0x70676B63  # "pgkc": one for each publication of changes

_KEPT = """c.relkind = 'r' AND c.relpersistence = 'p' AND c.oid >= 16384
       AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pgkeep')"""

_PUBLISHED = """
    SELECT r.prrelid AS oid, b.pubname
      FROM pg_catalog.pg_publication_rel r
      JOIN pg_catalog.pg_publication b ON b.oid = r.prpubid
     WHERE b.pubname LIKE 'pgkeep\\_changes\\_%'"""

# Tables whose updates and deletes are not captured, or would not be: only the owner of a table may
# publish it.
WITHOUT_IDENTITY = f"""
    SELECT n.nspname, c.relname
      FROM pg_catalog.pg_class c
      JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
      LEFT JOIN ({_PUBLISHED}) p ON p.oid = c.oid
     WHERE {_KEPT}
       AND NOT ({HAS_IDENTITY} AND (p.oid IS NOT NULL
                OR pg_catalog.pg_has_role(c.relowner, 'USAGE')
                   AND NOT EXISTS (SELECT FROM pg_catalog.pg_publication
                                    WHERE pubname = '{ROWS}')))
     ORDER BY 1, 2"""

# Of these, those that only lack a role that may publish them: whose they are.
OF_OTHERS = f"""
    SELECT n.nspname, c.relname, pg_catalog.pg_get_userbyid(c.relowner)::text
      FROM pg_catalog.pg_class c
      JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
      LEFT JOIN ({_PUBLISHED}) p ON p.oid = c.oid
     WHERE {_KEPT} AND {HAS_IDENTITY} AND p.oid IS NULL
       AND NOT pg_catalog.pg_has_role(c.relowner, 'USAGE')
     ORDER BY 1, 2"""

# The same where nothing has to be published.
UNKEYED = f"""
    SELECT n.nspname, c.relname
      FROM pg_catalog.pg_class c
      JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
     WHERE {_KEPT} AND NOT {HAS_IDENTITY}
     ORDER BY 1, 2"""

CREATE_SCHEMA = f"CREATE SCHEMA {SCHEMA}"
COMMENT_SCHEMA = f"COMMENT ON SCHEMA {SCHEMA} IS '{capturing.COMMENT}'"
# Any role may write messages. Ours have this behind their prefix, and only capture may know it.
CREATE_TOKEN = (
    f"CREATE TABLE {SCHEMA}.token AS SELECT pg_catalog.gen_random_uuid()::pg_catalog.text AS value"
)
CLOSE_TOKEN = f"REVOKE ALL ON TABLE {SCHEMA}.token FROM PUBLIC"
TOKEN_PREFIX = f"{PREFIX}."
_EMIT = f"""pg_catalog.pg_logical_emit_message(true,
        '{TOKEN_PREFIX}' || (SELECT value FROM {SCHEMA}.token)"""

GRANT_SCHEMA = f"GRANT USAGE ON SCHEMA {SCHEMA} TO PUBLIC"

CREATE_ROWS = f"CREATE PUBLICATION {ROWS} FOR ALL TABLES WITH (publish = 'insert, truncate')"
CREATE_CHANGES = {
    name: f"CREATE PUBLICATION {name} WITH (publish = 'update, delete')" for name in CHANGES
}


def drop_publication(name: str) -> str:
    """It is no error if there is none."""
    return f"DROP PUBLICATION IF EXISTS {name}"


# Puts a table into a publication of changes that nobody holds, or takes it out of the one that it
# is in. Why it could not is returned; nothing if it could. They are chosen at random, so that an
# open migration seldom holds the one that another table has to leave. If it does, that table's
# updates would fail now that it has no identity: so all of its columns become one.
PUBLISH = f"""
CREATE OR REPLACE FUNCTION {SCHEMA}.publish(relation oid, place text, wanted boolean) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '200ms'
AS $function$
DECLARE
    found_place text;
    full_name text;
    problem text;
    give_up timestamptz := clock_timestamp() + interval '1 second';
BEGIN
    SELECT format('%I.%I', n.nspname, c.relname) INTO full_name
      FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = relation;
    LOOP
        SELECT b.pubname INTO found_place
          FROM (SELECT p.pubname FROM pg_publication p
                 WHERE p.pubname LIKE 'pgkeep\\_changes\\_%'
                   AND (place IS NULL OR p.pubname = place)
                 ORDER BY random() OFFSET 0) b
         WHERE pg_try_advisory_xact_lock({_LOCK_CLASS}, right(b.pubname, 1)::int)
         LIMIT 1;
        EXIT WHEN FOUND OR clock_timestamp() > give_up;
        PERFORM pg_sleep(0.02);
    END LOOP;
    IF found_place IS NULL THEN
        RAISE EXCEPTION 'other transactions hold the publications';
    END IF;
    PERFORM set_config('pgkeep.publishing', 'on', true);  -- not looked at by `record`
    EXECUTE format('ALTER PUBLICATION %I %s TABLE ONLY %s', found_place,
        CASE WHEN wanted THEN 'ADD' ELSE 'DROP' END, full_name);
    PERFORM set_config('pgkeep.publishing', 'off', true);
    RETURN NULL;
EXCEPTION WHEN OTHERS THEN
    problem := SQLERRM;
    IF NOT wanted THEN
        BEGIN
            EXECUTE format('ALTER TABLE ONLY %s REPLICA IDENTITY FULL', full_name);
            problem := problem || '; the table has REPLICA IDENTITY FULL instead';
        EXCEPTION WHEN OTHERS THEN
            problem := problem || '; ' || SQLERRM;
        END;
    END IF;
    RAISE LOG 'pgkeep: publication of %: %', full_name, problem;
    RETURN problem;
END
$function$"""

# It looks at `tables`, or at all. What was done, or could not be, is returned.
KEEP_IN_STEP = f"""
CREATE OR REPLACE FUNCTION {SCHEMA}.keep_in_step(tables oid[] DEFAULT NULL) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
    item record;
    problem text;
    done jsonb := '[]';
BEGIN
    IF tables IS NULL THEN
        SELECT array_agg(c.oid) INTO tables FROM pg_class c
         WHERE c.relkind = 'r' AND c.oid >= 16384;
    END IF;
    FOR item IN
        SELECT c.oid, n.nspname, c.relname, p.pubname, f.fit
          FROM (SELECT DISTINCT unnest(tables)) t (oid)
          JOIN pg_class c ON c.oid = t.oid
          JOIN pg_namespace n ON n.oid = c.relnamespace
         CROSS JOIN LATERAL (SELECT {_KEPT} AND {HAS_IDENTITY} AS fit OFFSET 0) f
          LEFT JOIN ({_PUBLISHED}) p ON p.oid = c.oid
         WHERE CASE WHEN p.oid IS NULL THEN f.fit AND pg_has_role(c.relowner, 'USAGE')
                    ELSE NOT f.fit END
    LOOP
        problem := {SCHEMA}.publish(item.oid, item.pubname, item.fit);
        done := done || jsonb_build_array(jsonb_strip_nulls(jsonb_build_object(
            'table', format('%I.%I', item.nspname, item.relname),
            'published', item.fit = (problem IS NULL), 'error', problem)));
    END LOOP;
    RETURN done;
END
$function$"""

# SET UNLOGGED is refused for a table in a list of published ones. Which table it is for is not
# known before it is done: so all that the statement may mean step aside, and come back after it.
ON_START = f"""
CREATE OR REPLACE FUNCTION {SCHEMA}.on_start() RETURNS event_trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
    statement text := lower(current_query());
BEGIN
    PERFORM FROM pg_event_trigger_ddl_commands();  -- an error outside of event triggers
    IF strpos(statement, 'unlogged') > 0 THEN
        PERFORM {SCHEMA}.publish(p.oid, p.pubname, false)
           FROM ({_PUBLISHED}) p JOIN pg_class c ON c.oid = p.oid
          WHERE strpos(statement, lower(c.relname)) > 0;
    END IF;
EXCEPTION WHEN OTHERS THEN
    RAISE LOG 'pgkeep: %', SQLERRM;
END
$function$"""

# On these depends what a constant in a statement means: a time without a zone, 01/02/2024.
_SETTINGS = ", ".join(
    f"'{name}', current_setting('{name}')"
    for name in ("TimeZone", "DateStyle", "IntervalStyle", "standard_conforming_strings")
)

# A message is written once for each event; the text of what a client sent at once is in the first
# of them only: a file with a thousand statements would be written a thousand times.
EMIT = f"""
CREATE OR REPLACE FUNCTION {SCHEMA}.emit(
    event text, tag text, role text, path text, detail jsonb) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
    this text := pg_current_xact_id()::text || ' ' || statement_timestamp()::text;
    statement text;
BEGIN
    IF current_setting('pgkeep.recorded', true) IS DISTINCT FROM this THEN
        statement := left(current_query(), {LONGEST_QUERY});
        PERFORM set_config('pgkeep.recorded', this, true);
    END IF;
    PERFORM {_EMIT}, jsonb_build_object(
        'version', 1, 'event', event, 'tag', tag, 'query', statement,
        'role', CASE WHEN pg_has_role(session_user, role, 'MEMBER') THEN role ELSE '' END,
        'session_role', session_user, 'search_path', path, 'at', clock_timestamp(),
        'settings', jsonb_build_object({_SETTINGS}), 'objects', detail)::text);
END
$function$"""

# What capture says itself of a change that nothing else has told of.
NOTICE = f"""
SELECT {_EMIT}, pg_catalog.jsonb_build_object(
    'version', 1, 'event', 'noticed', 'tag', '', 'query', NULL, 'role', '',
    'session_role', session_user, 'search_path', '', 'at', pg_catalog.clock_timestamp(),
    'objects', %s::pg_catalog.jsonb)::text)"""

# What keep_in_step does is no change of the schema, nor is what leaves definitions as they are. A
# GRANT names no object.
_NOT_OURS = """o.schema_name IS DISTINCT FROM 'pgkeep'
           AND COALESCE(o.object_identity, '') NOT LIKE '%in publication pgkeep\\_changes\\_%'"""
_OF_TABLES = "'table', 'table column', 'table constraint', 'default value'"
_HARMLESS = "'REFRESH MATERIALIZED VIEW', 'REINDEX'"

# Which tables may have got or lost an identity: those that a command names and all that inherit
# from them. Where something was dropped, a column or an index of a published one may have gone with
# it; what goes with its table does not matter. What of tables went by CASCADE is told, too.
RECORD = f"""
CREATE OR REPLACE FUNCTION {SCHEMA}.record(event text, tag text, role text, path text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan AS $function$
DECLARE
    objects jsonb;
    tables oid[];
    done jsonb;
BEGIN
    IF tag IN ({_HARMLESS}) OR tag = 'ALTER PUBLICATION'
       AND current_setting('pgkeep.publishing', true) = 'on' THEN
        RETURN;
    ELSIF event = 'ddl_command_end' THEN
        SELECT jsonb_agg(jsonb_build_object(
                   'type', o.object_type, 'schema', o.schema_name, 'identity', o.object_identity,
                   'command', o.command_tag, 'in_extension', o.in_extension))
                   FILTER (WHERE {_NOT_OURS}
                             AND (o.schema_name IS NULL OR o.schema_name NOT LIKE 'pg\\_temp%')),
               array_agg(CASE o.classid WHEN 'pg_class'::regclass THEN o.objid ELSE
                   (SELECT r.prrelid FROM pg_publication_rel r WHERE r.oid = o.objid) END)
                   FILTER (WHERE o.classid = 'pg_class'::regclass AND o.object_type = 'table'
                              OR o.classid = 'pg_publication_rel'::regclass)
          INTO objects, tables
          FROM pg_event_trigger_ddl_commands() o;
        IF tables IS NOT NULL AND EXISTS (
            SELECT FROM pg_inherits WHERE inhparent = ANY (tables)) THEN
            WITH RECURSIVE tree (oid) AS (
                SELECT unnest(tables)
                UNION SELECT i.inhrelid FROM pg_inherits i JOIN tree ON i.inhparent = tree.oid)
            SELECT array_agg(oid) INTO tables FROM tree;
        END IF;
        IF strpos(lower(current_query()), 'unlogged') > 0 THEN
            PERFORM {SCHEMA}.keep_in_step();  -- those that have stepped aside
        END IF;
    ELSIF event = 'sql_drop' THEN
        SELECT jsonb_agg(jsonb_build_object(
                   'type', o.object_type, 'schema', o.schema_name, 'identity', o.object_identity,
                   'command', tag, 'in_extension', false))
                   FILTER (WHERE {_NOT_OURS} AND NOT o.is_temporary
                             AND (o.original OR o.normal AND o.object_type IN ({_OF_TABLES}))),
               CASE WHEN bool_or(o.object_type = 'table column' AND tag <> 'ALTER TABLE'
                                 OR o.object_type = 'index' AND tag = 'DROP INDEX'
                                 OR o.object_type = 'publication relation'
                                    AND tag = 'ALTER PUBLICATION') THEN
                   (SELECT array_agg(p.oid) FROM ({_PUBLISHED}) p)
                   || COALESCE(array_agg(c.oid) FILTER (WHERE c.oid IS NOT NULL), '{{}}')
               END
          INTO objects, tables
          FROM pg_event_trigger_dropped_objects() o
          LEFT JOIN pg_class c ON o.object_type = 'publication relation'
               AND tag = 'ALTER PUBLICATION' AND c.relname = o.address_names[2]
               AND c.relnamespace = to_regnamespace(quote_ident(o.address_names[1]));
    ELSE
        SELECT jsonb_agg(jsonb_build_object(
                   'type', 'table', 'schema', n.nspname, 'command', tag, 'in_extension', false,
                   'identity', format('%I.%I', n.nspname, c.relname)))
          INTO objects
          FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE c.oid = pg_event_trigger_table_rewrite_oid() AND c.relpersistence <> 't';
    END IF;
    IF objects IS NOT NULL THEN
        PERFORM {SCHEMA}.emit(event, tag, role, path, objects);
    END IF;
    IF tables IS NOT NULL THEN
        SELECT jsonb_agg(one) INTO done
          FROM jsonb_array_elements({SCHEMA}.keep_in_step(tables)) one WHERE one ? 'error';
        IF done IS NOT NULL THEN
            PERFORM {SCHEMA}.emit('not_published', tag, role, path, done);
        END IF;
    END IF;
END
$function$"""

# Functions are everybody's at first: whoever may connect could take a table out of what is
# captured, or tell of a change that there was not. The others do nothing outside of an event
# trigger, or only what is right.
PRIVATE = f"""
REVOKE EXECUTE ON FUNCTION {SCHEMA}.publish(oid, text, boolean),
    {SCHEMA}.emit(text, text, text, text, jsonb) FROM PUBLIC"""

EVENT_TRIGGERS = {
    capturing.START: ("ddl_command_start", "on_start"),
    capturing.COMMAND: ("ddl_command_end", "on_command"),
    capturing.DROP: ("sql_drop", "on_drop"),
    capturing.REWRITE: ("table_rewrite", "on_rewrite"),
}


def _trigger_function(name: str) -> str:
    """It runs with the rights and the settings of whoever changes the schema: so it only passes on
    what those are, and names everything in full."""
    return f"""
CREATE OR REPLACE FUNCTION {SCHEMA}.{name}() RETURNS event_trigger
LANGUAGE plpgsql AS $function$
BEGIN
    PERFORM {SCHEMA}.record(TG_EVENT, TG_TAG, current_user::pg_catalog.text,
        pg_catalog.current_setting('search_path'));
EXCEPTION WHEN OTHERS THEN
    RAISE LOG 'pgkeep: a schema change was not recorded (%): %', '{name}', SQLERRM;
END
$function$"""


FUNCTIONS = (
    PUBLISH,
    KEEP_IN_STEP,
    ON_START,
    EMIT,
    RECORD,
    *(_trigger_function(name) for name in ("on_command", "on_drop", "on_rewrite")),
)


def create_event_trigger(name: str) -> str:
    """The statement that makes one of `EVENT_TRIGGERS`."""
    event, function = EVENT_TRIGGERS[name]
    only = " WHEN TAG IN ('ALTER TABLE')" if event == "ddl_command_start" else ""
    return f"CREATE EVENT TRIGGER {name} ON {event}{only} EXECUTE FUNCTION {SCHEMA}.{function}()"


def enable_event_trigger(name: str) -> str:
    """Also for sessions that restore something, whose triggers are quiet otherwise."""
    return f"ALTER EVENT TRIGGER {name} ENABLE ALWAYS"


IN_STEP = f"SELECT {SCHEMA}.keep_in_step()"

REMOVAL = (
    *(f"DROP EVENT TRIGGER IF EXISTS {name}" for name in EVENT_TRIGGERS),
    *(drop_publication(name) for name in (ROWS, *CHANGES)),
    f"DROP SCHEMA IF EXISTS {SCHEMA} CASCADE",
)
