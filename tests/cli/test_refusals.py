"""Calls that cannot be meant as they stand: refused before anything is touched."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import Workbench
from failures import SMALL_SHOP, Told, first_backup, run_sql, told

NewDatabase = Callable[[], str]


@pytest.fixture
def shop(workbench: Workbench, new_database: NewDatabase) -> str:
    source = new_database()
    run_sql(source, *SMALL_SHOP)
    return first_backup(workbench, source)


def refusal(workbench: Workbench, *arguments: str) -> Told:
    outcome = workbench.pgkeep(*arguments, expect=2)
    assert outcome.out == ""
    return told(outcome, "E001", exit_code=2)


def test_a_database_that_nobody_knows_is_no_empty_list(workbench: Workbench, shop: str) -> None:
    error = refusal(workbench, "list", "nosuch")
    assert error.message == "no database 'nosuch' is known (configured or backed up: shop)"
    text = workbench.config.read_text()
    url = workbench.repository.as_uri()
    assert "nosuch" in refusal(workbench, "list", "nosuch", "--repository", url).message
    workbench.config.write_text(text.replace("[databases.shop]", "[databases.new]"))
    assert workbench.pgkeep("list", "new").out == "no backups of 'new' yet\n"
    assert shop in workbench.pgkeep("list", "shop").out, "it is not configured, but backed up"


def test_the_demonstration_wants_a_new_folder(workbench: Workbench, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    error = refusal(workbench, "demo", "--keep", str(tmp_path))
    assert error.message == f"{str(tmp_path)!r} is there already"
    below = tmp_path / "file" / "folder"
    error = refusal(workbench, "demo", "--keep", str(below))
    assert error.message == f"cannot make the folder {str(below)!r}: not a directory"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "no file is named"),
        (".", "no file is named"),
        ("dump.txt", "'dump.txt' does not say how to write it"),
    ],
)
def test_an_export_wants_a_name_that_says_how_to_write_it(
    workbench: Workbench, shop: str, name: str, message: str
) -> None:
    assert refusal(workbench, "export", "shop", "-o", name).message == message


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("restore", "--into-schema", "s", "--schema-only"), "--into-schema and --schema-only"),
        (("restore", "--into-schema", "s", "--data-only"), "--into-schema and --data-only"),
        (("export", "--clean", "--data-only", "-o", "a.sql"), "--data-only and --clean"),
    ],
)
def test_options_that_contradict_each_other_are_refused(
    workbench: Workbench, shop: str, arguments: tuple[str, ...], message: str
) -> None:
    command, *options = arguments
    target = ("--target", "postgresql://nobody@127.0.0.1:1/x") if command == "restore" else ()
    error = refusal(workbench, command, "shop", "--table", "users", *options, *target)
    assert error.message == f"{message} exclude each other"


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ("", "'' is not a schema's name"),
        ("x" * 64, f"{'x' * 64!r} is not a schema's name"),
        ("ü" * 32, f"{'ü' * 32!r} is not a schema's name"),
        ("information_schema", "schema 'information_schema' belongs to PostgreSQL itself"),
        ("pg_catalog", "schema 'pg_catalog' belongs to PostgreSQL itself"),
        ("pg_temp_3", "schema 'pg_temp_3' belongs to PostgreSQL itself"),
    ],
)
def test_a_schema_that_tables_cannot_be_put_under_is_refused(
    workbench: Workbench, shop: str, schema: str, message: str
) -> None:
    error = refusal(
        workbench, "restore", "shop", "--table", "users", "--into-schema", schema,
        "--target", "postgresql://nobody@127.0.0.1:1/x",
    )  # fmt: skip
    assert error.message == message
