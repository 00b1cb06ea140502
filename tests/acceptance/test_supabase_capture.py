"""Capture on a Supabase project as `postgres`, and its moments brought back elsewhere."""

from __future__ import annotations

from collections.abc import Callable

import psycopg
import pytest

from conftest import Workbench
from failures import configure
from supabase_server import ProjectServer, Version

NewDatabase = Callable[[], str]

CHANGES = """
SET synchronous_commit = on;
INSERT INTO auth.users (id, email) VALUES (gen_random_uuid(), 'later@example.com');
UPDATE auth.users SET email = 'changed-' || email WHERE email NOT LIKE 'later%';
"""
TODOS = "SELECT * FROM public.todos ORDER BY 1"
USERS = "SELECT id, email FROM auth.users ORDER BY 1"


def capture(workbench: Workbench) -> dict[str, object]:
    document = workbench.pgkeep("capture", "shop", "--once", "--json", expect=3).document
    assert isinstance(document, dict)
    return document


def restored(workbench: Workbench, target: str, moment: str) -> tuple[dict[str, object], str]:
    workbench.monkeypatch.setenv("TARGET_URL", target)
    outcome = workbench.pgkeep(
        "restore", "shop", "--target", "env:TARGET_URL", "--to", moment, "--json", expect=3
    )
    document = outcome.document
    assert isinstance(document, dict)
    return document, outcome.err


def answers(url: str, query: str) -> list[tuple[object, ...]]:
    with psycopg.connect(url) as connection:
        return connection.execute(query.encode()).fetchall()


@pytest.mark.parametrize("plugin", ["", "test_decoding"])
def test_a_moment_of_a_project_comes_back(
    plugin: str, workbench: Workbench, sample_project: ProjectServer, new_database: NewDatabase
) -> None:
    """With event triggers the updates of the platform's tables are not told, and that is said."""
    project = sample_project
    workbench.init(project.url)
    configure(workbench, "[capture]", *([f'plugin = "{plugin}"'] if plugin else []))
    planned = workbench.pgkeep("capture", "shop", "--dry-run", "--json").document
    assert isinstance(planned, dict)
    assert planned["plugin"] == (plugin or "pgoutput")
    others = planned["of_others"]
    assert isinstance(others, dict)
    assert ("auth.users" in str(others)) is not bool(plugin)
    assert capture(workbench)["new_chain"] is True
    if not plugin:  # a change of the schema ends what can be reached exactly there
        project.run("CREATE TABLE public.more (id int PRIMARY KEY, v text)")
    project.run(CHANGES)
    project.run("SET synchronous_commit = on; DELETE FROM public.todos WHERE id % 2 = 0")
    moment = str(project.value("SELECT pg_current_wal_insert_lsn()"))
    todos, users = project.ask(TODOS), project.ask(USERS)
    project.run("SET synchronous_commit = on; DELETE FROM public.todos")
    capture(workbench)
    target = new_database()
    document, _ = restored(workbench, target, moment)
    assert answers(target, TODOS) == todos
    replayed = document["replayed"]
    assert isinstance(replayed, dict)
    inexact = {one["what"] for one in replayed["not_exact"]}
    if plugin:
        assert answers(target, USERS) == users
        assert "table auth.users" not in inexact
    else:
        assert answers(target, "SELECT count(*) FROM auth.users") == [(len(users),)]
        assert "table auth.users" in inexact
        assert answers(target, "SELECT count(*) FROM public.more") == [(0,)]


def test_a_moment_of_a_project_comes_back_in_another_project(
    workbench: Workbench,
    sample_project: ProjectServer,
    new_project: Callable[[Version], ProjectServer],
) -> None:
    project = sample_project
    workbench.init(project.url)
    configure(workbench, "[capture]", 'plugin = "test_decoding"')
    capture(workbench)
    project.run(CHANGES)
    project.run("SET synchronous_commit = on; DELETE FROM public.todos WHERE id % 2 = 0")
    moment = str(project.value("SELECT pg_current_wal_insert_lsn()"))
    todos, users = project.ask(TODOS), project.ask(USERS)
    project.run("SET synchronous_commit = on; DELETE FROM public.todos")
    capture(workbench)
    target = new_project("older")
    restored(workbench, target.url, moment)
    assert target.ask(TODOS) == todos
    assert target.ask(USERS) == users
