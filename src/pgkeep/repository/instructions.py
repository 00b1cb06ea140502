"""How to restore without pgkeep: a text for people, and a shell script for each backup.

The script is sealed with the backup, since it names tables; the text is public.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator

from pgkeep.model import Contents, Kind, SealedStream
from pgkeep.postgres.statements import (
    COPY_LARGE_OBJECTS_IN,
    CREATE_LARGE_OBJECT_STAGING,
    DROP_PUBLIC,
    LARGE_OBJECTS_FROM_STAGING,
    copy_in,
    database_comment,
    database_grants,
    database_settings,
    large_object_properties,
    refresh,
    set_sequence,
)

RESTORE_TEXT = """\
HOW TO RESTORE FROM THIS REPOSITORY WITHOUT PGKEEP

You need: age, zstd, sha256sum, ssh-keygen, and psql and pg_restore of at least the version of the
database that was backed up; a copy of this folder; and a key that the backups were sealed to (an
age identity file, an SSH private key, or a secret key in a keyring of gpg). Work in this folder,
in a shell:

1. Choose a backup. The newest of a database called shop, whatever its tier:

     ls -d shop/*/*/* | awk -F/ '{print $NF, $0}' | sort | tail -n 1

     B=shop/daily/2026-01-15/20260115T060000Z-0123abcd

2. Check that the backup comes from your backup host and was not changed. Use a copy of
   allowed_signers that you kept elsewhere, if you have one; the one here could have been replaced
   together with the backup.

     ssh-keygen -Y verify -f keys/allowed_signers -I pgkeep -n pgkeep \\
       -s $B/manifest.json.sig < $B/manifest.json

3. Check every file that belongs to it. Each is named by the SHA-256 of its bytes:

     grep -o '"name":"[0-9a-f]*"' $B/manifest.json | cut -d'"' -f4 | sort -u |
       sed 's,^\\(..\\).*,&  objects/\\1/&,' | sha256sum --check --quiet && echo all whole

4. Open the key of the period (epoch) with your own key. Keep the result in memory, not on a disk:

     umask 077
     E=$(grep -o '"epoch":"[0-9a-f]*"' $B/manifest.json | cut -d'"' -f4)
     age -d -i YOUR-KEY-FILE keys/$E.age > /dev/shm/epoch.key

   Or with a secret key of gpg, instead of the last line (GNUPGHOME may name another keyring):

     gpg -d keys/$E.gpg > /dev/shm/epoch.key

5. Open the restore script of the backup, and read it before you run it:

     for N in $(grep -o '"script":\\[[^]]*' $B/manifest.json | grep -o '[0-9a-f]\\{64\\}'); do
       age -d -i /dev/shm/epoch.key objects/$(echo $N | cut -c1-2)/$N | zstd -d
     done > /dev/shm/restore.sh

6. Make an empty database and run the script. It stops at the first error and counts the rows of
   each table. Missing roles: WITH_ROLES=1 makes them first (without passwords; roles that exist
   already are reported as errors and left as they are).

     export PGHOST=... PGPORT=... PGUSER=...       (the password: in ~/.pgpass)
     createdb -T template0 restored
     PGDATABASE=restored sh /dev/shm/restore.sh /dev/shm/epoch.key

7. Remove the keys:  rm /dev/shm/epoch.key /dev/shm/restore.sh

Any single object is opened by:  age -d -i /dev/shm/epoch.key objects/XX/NAME | zstd -d
"""

_PROLOGUE = """\
#!/bin/sh
# Restores backup {backup} of database {database}, as it was at
# {taken}, with age, zstd, sha256sum, pg_restore (version {version} or newer) and psql.
# Run it in the folder of the repository, with an empty database in PGDATABASE:
#   PGDATABASE=restored sh restore.sh EPOCH-KEY-FILE
set -eu
key=${{1:?the file with the opened epoch key}}
: "${{PGDATABASE:?an empty database}}"
export PGDATABASE PGCLIENTENCODING={encoding}
export PGOPTIONS="-c lc_monetary=C -c intervalstyle=postgres -c client_min_messages=warning"

open() {{
    for name; do
        file=objects/$(printf %.2s "$name")/$name
        echo "$name  $file" | sha256sum --check --quiet - >&2 || return 1
        age -d -i "$key" "$file" | zstd -dcq
    done
}}
listing=$(mktemp)
trap 'rm -f "$listing" "$listing.most" "$listing.last"' EXIT
event_triggers='^[0-9]*; [0-9]* [0-9]* \\([A-Z ]* - \\)\\{{0,1\\}}EVENT TRIGGER '
sql() {{ psql -X -q -v ON_ERROR_STOP=1 -o /dev/null "$@"; }}
load() {{ # rows, table, COPY command, objects: the count shows that nothing was cut short
    rows=$1 table=$2 command=$3
    shift 3
    got=$(open "$@" | psql -X -v ON_ERROR_STOP=1 -c "$command")
    [ "$got" = "COPY $rows" ] || {{ echo "$table: expected $rows rows, got: $got" >&2; exit 1; }}
    echo "$table: $rows rows"
}}
"""


def restore_script(contents: Contents, kind: Kind) -> str:
    """The whole backup as shell commands; names with any characters in them are quoted."""
    prologue = _PROLOGUE.format(
        backup=contents.backup,
        database=shlex.quote(contents.database.name).replace("\n", " "),
        taken=contents.point.taken.isoformat(),
        encoding="SQL_ASCII" if contents.database.encoding == "SQL_ASCII" else "UTF8",
        version=contents.point.server_version.split()[0],
    )
    return "\n".join([prologue, *_commands(contents, kind), "echo restored", ""])


def _commands(contents: Contents, kind: Kind) -> Iterator[str]:
    if contents.roles_script is not None:
        yield (
            f'if [ "${{WITH_ROLES:-}}" = 1 ]; then open {_names(contents.roles_script)}'
            " | psql -X -q -d postgres || true; fi"
        )
    schema = contents.schema
    if schema is not None:
        if not contents.database.has_public:
            yield from _statements([DROP_PUBLIC])
        yield f"definitions() {{ open {_names(schema)}; }}"
        yield _restore_section("pre-data")
    if kind.has_data:
        yield from _data_commands(contents)
    if schema is not None:
        yield from _post_data(contents)
    yield "sql -c ANALYZE"


def _post_data(contents: Contents) -> Iterator[str]:
    """Event triggers last: they must not act on what is made, and filling a view is DDL too."""
    yield 'definitions | pg_restore -l > "$listing"'
    yield 'sed "/$event_triggers/d" "$listing" > "$listing.most"'
    yield _restore_section("post-data", '-L "$listing.most" ')
    yield from _statements(refresh(name) for name in contents.populated_matviews)
    for text in (database_settings, database_grants, database_comment):
        yield from _statements(text(contents.database, ':"DBNAME"'))
    yield 'if grep "$event_triggers" "$listing" > "$listing.last"; then'
    yield "    " + _restore_section("post-data", '-L "$listing.last" ')
    yield "fi"


def _restore_section(section: str, listed: str = "") -> str:
    options = f'--exit-on-error --section={section} {listed}-d "$PGDATABASE"'
    return f"definitions | pg_restore {options}"


def _data_commands(contents: Contents) -> Iterator[str]:
    for table in contents.tables:
        command = shlex.quote(copy_in(table.load_name, table.columns))
        for part in table.parts:
            yield (f"load {part.rows} {shlex.quote(str(table.name))} {command} {_names(part.text)}")
    for part in contents.large_objects.parts:
        yield "{"
        yield from _lines(f"{CREATE_LARGE_OBJECT_STAGING};", f"{COPY_LARGE_OBJECTS_IN};")
        yield f"    damaged=; open {_names(part.text)} || damaged=1"
        yield from _lines("\\.")
        yield '    if [ -n "$damaged" ]; then'
        yield from _lines("DO $$BEGIN RAISE EXCEPTION 'damaged large objects'; END$$;")
        yield "    fi"
        yield from _lines(*(f"{statement};" for statement in LARGE_OBJECTS_FROM_STAGING))
        yield "} | sql"
    yield from _statements(
        large_object_properties(contents.large_objects, owners=True, privileges=True)
    )
    yield from _statements(set_sequence(value) for value in contents.sequences)


def _statements(statements: Iterable[str]) -> Iterator[str]:
    """SQL statements as one call of psql, fed by printf, which changes no character of %s."""
    quoted = [shlex.quote(f"{statement};") for statement in statements]
    for start in range(0, len(quoted), 500):
        lines = " \\\n    ".join(quoted[start : start + 500])
        yield f"printf '%s\\n' \\\n    {lines} \\\n    | sql"


def _lines(*lines: str) -> Iterator[str]:
    yield f"    printf '%s\\n' {' '.join(shlex.quote(line) for line in lines)}"


def _names(stream: SealedStream) -> str:
    return " ".join(item.name for item in stream.objects)
