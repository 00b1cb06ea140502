"""The way back without pgkeep: shell that parses, and is nothing but its own commands."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from examples import contents, stream, table
from pgkeep.model import (
    Column,
    Contents,
    DatabaseProperties,
    Kind,
    LargeObjects,
    Part,
    SequenceValue,
    TableName,
)
from pgkeep.repository.instructions import RESTORE_TEXT, restore_script

NASTY = [
    "it's", '"', "$(touch pwned)", "`touch pwned`", "a;touch pwned", "a\ntouch pwned\n", "\\",
    "'\n'", "-rf", "#", "%s", "EOF", "$PGDATABASE", "{}", "a\rb", "ünï", "\\.",
    "'; touch pwned; '", "\x1b[0m",
]  # fmt: skip


def parses(script: str) -> bool:
    return not subprocess.run(["sh", "-n"], input=script.encode(), capture_output=True).returncode


def named(name: str) -> Contents:
    """A backup in which everything that can have a name has this one."""
    full = TableName(name, name)
    return contents(
        database=DatabaseProperties(
            name, "UTF8", "C", "C", 0, (("", name, name), (name, "search_path", '"$user"'))
        ),
        tables=(table(full, columns=(Column(name, "text"),)),),
        sequences=(SequenceValue(full, 7, True),),
        large_objects=LargeObjects(
            owners=((1, name),),
            comments=((1, name),),
            parts=(Part(1, None, 1, stream("lo")),),
        ),
        populated_matviews=(full,),
    )


@pytest.mark.parametrize("kind", list(Kind))
@pytest.mark.parametrize("name", NASTY)
def test_a_script_parses_whatever_things_are_called(name: str, kind: Kind) -> None:
    assert parses(restore_script(named(name), kind))


@settings(max_examples=15, deadline=None)
@given(st.text(alphabet="'\"`$\\\n;(){}#%!& a", min_size=1, max_size=20))
def test_a_script_parses_for_any_name(name: str) -> None:
    assert parses(restore_script(named(name), Kind.FULL))


PROGRAMS = ("age", "zstd", "psql", "pg_restore", "sha256sum")


@pytest.mark.parametrize("name", NASTY)
def test_a_name_is_never_run(name: str, tmp_path: Path) -> None:
    """Beside programs that only note what they are given, nothing runs."""
    commands = tmp_path / "bin"
    commands.mkdir()
    for program in PROGRAMS:
        body = "cat >> ../stdin 2>/dev/null; " if program == "psql" else "cat >/dev/null; "
        note = f'printf "%s\\n" "{program}" "$@" >> ../arguments; '
        count = 'case "$*" in *COPY*) echo COPY 2;; esac'
        file = commands / program
        file.write_text(f"#!/bin/sh\n{note}{body}{count}\n")
        file.chmod(0o755)
    work = tmp_path / "work"
    work.mkdir()
    done = run_script(restore_script(named(name), Kind.FULL), work, commands)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith(b"restored\n")
    assert list(work.iterdir()) == []
    arguments = (tmp_path / "arguments").read_bytes().decode()
    quoted = name.replace('"', '""')
    assert f'COPY "{quoted}"."{quoted}" ("{quoted}") FROM STDIN' in arguments
    sent = (tmp_path / "stdin").read_bytes().decode()
    assert f'REFRESH MATERIALIZED VIEW "{quoted}"."{quoted}";\n' in sent
    assert f'ALTER LARGE OBJECT 1 OWNER TO "{quoted}";\n' in sent


def run_script(script: str, work: Path, commands: Path) -> subprocess.CompletedProcess[bytes]:
    file = work.parent / "restore.sh"
    file.write_text(script, newline="")
    environment = {"PATH": f"{commands}:/usr/bin:/bin", "PGDATABASE": "restored"}
    return subprocess.run(
        ["sh", str(file), "key"],
        cwd=work, env=environment, stdin=subprocess.DEVNULL, capture_output=True, check=False,
    )  # fmt: skip


def test_a_script_names_every_object_of_the_backup_once_in_order() -> None:
    example = contents()
    script = restore_script(example, Kind.FULL)
    names = re.findall(r"\b[0-9a-f]{64}\b", script)
    schema, roles, table_text, large_objects = (
        stream.objects[0].name for stream in example.streams()
    )
    assert names == [roles, schema, table_text, large_objects]


@pytest.mark.parametrize(
    ("kind", "has"),
    [
        (Kind.FULL, ("pre-data", "load 2", "setval", "REFRESH", "ALTER DATABASE", "post-data")),
        (Kind.SCHEMA, ("pre-data", "REFRESH", "ALTER DATABASE", "post-data")),
        (Kind.DATA, ("load 2", "setval")),
    ],
)
def test_a_script_does_what_its_kind_of_backup_can(kind: Kind, has: tuple[str, ...]) -> None:
    example = contents() if kind.has_schema else contents(schema=None, roles_script=None)
    script = restore_script(example, kind)
    places = [script.find(word) for word in has]
    assert -1 not in places
    assert [word for word in ("load 2", "setval", "pre-data") if word in script] == [
        word for word in ("load 2", "setval", "pre-data") if word in has
    ]
    assert script.index("sql -c ANALYZE") > max(places)


def test_without_arguments_a_script_does_nothing(tmp_path: Path) -> None:
    file = tmp_path / "restore.sh"
    file.write_text(restore_script(contents(), Kind.FULL))
    for arguments, environment, missing in (
        ([], {"PGDATABASE": "x"}, b"epoch key"),
        (["key"], {}, b"an empty database"),
    ):
        done = subprocess.run(
            ["sh", str(file), *arguments],
            env={"PATH": "/usr/bin:/bin", **environment}, capture_output=True, check=False,
        )  # fmt: skip
        assert done.returncode != 0
        assert missing in done.stderr


def test_the_commands_of_the_public_text_parse() -> None:
    blocks = re.findall(r"(?m)(?:^     .*\n)+", RESTORE_TEXT)
    assert len(blocks) >= 7
    for block in blocks:
        assert parses(block.replace("(the password: in ~/.pgpass)", "")), block
