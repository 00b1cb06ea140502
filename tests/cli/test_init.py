"""pgkeep init: the repositories that it sets up, and what it warns of."""

from __future__ import annotations

from typing import Any

from conftest import Workbench
from failures import told
from pgkeep.config import load

REF = "abcdefghijklmnopqrst"


def init(workbench: Workbench, *options: str, expect: int = 0) -> Any:
    return workbench.pgkeep(
        "init", "shop", "--url-env", "SHOP_DATABASE_URL", "--state-dir", str(workbench.state),
        *options, expect=expect,
    )  # fmt: skip


def test_without_a_word_backups_go_to_a_folder_and_more_is_proposed(workbench: Workbench) -> None:
    init(workbench)
    assert list(load(workbench.config).repositories) == ["local"]
    text = workbench.config.read_text()
    for role in ("s3", "google", "supabase"):
        assert f"#[repositories.{role}]" in text


def test_what_is_done_already_is_no_next_step(workbench: Workbench) -> None:
    assert "next: set the variable" in init(workbench).out
    workbench.config.unlink()
    workbench.identity.unlink()
    workbench.monkeypatch.setenv("SHOP_DATABASE_URL", "postgresql://shop@host/shop")
    again = init(workbench).out
    assert "next: set" not in again
    assert "next: pgkeep backup shop" in again


def test_each_repository_that_is_named_is_set_up(workbench: Workbench) -> None:
    urls = ["s3://projectx/pgkeep", "gs://projectx/pgkeep", workbench.repository.as_uri()]
    options = [word for url in urls for word in ("--repository", url)]
    outcome = init(workbench, *options, "--supabase-storage", f"{REF}/copies", "--json")
    assert outcome.document["repositories"] == [*urls, "s3://copies/pgkeep"]
    repositories = load(workbench.config).repositories
    assert list(repositories) == ["s3", "google", "supabase", "local"]
    assert [one.url for one in repositories.values() if "copies" not in one.url] == urls


def test_a_copy_in_the_project_that_is_backed_up_draws_a_warning(workbench: Workbench) -> None:
    url = f"postgresql://postgres.{REF}:x@aws-0-eu-central-1.pooler.supabase.com:5432/postgres"
    workbench.monkeypatch.setenv("SHOP_DATABASE_URL", url)
    outcome = init(workbench, "--supabase-storage", f"{REF}/copies")
    assert f"repository supabase: it lies in the Supabase project '{REF}'" in outcome.err
    assert workbench.config.exists()


def test_a_copy_in_another_project_draws_none(workbench: Workbench) -> None:
    url = f"postgresql://postgres:x@db.{REF}.supabase.co/postgres"
    workbench.monkeypatch.setenv("SHOP_DATABASE_URL", url)
    assert "the very one of" not in init(workbench, "--supabase-storage", "another/copies").err


def test_what_is_no_repository_is_refused_before_anything_is_written(workbench: Workbench) -> None:
    options = ("--repository", "s3://projectx", "--repository", "ftp://projectx")
    told(init(workbench, *options, expect=2), "E002", exit_code=2)
    told(init(workbench, "--supabase-storage", "x", expect=2), "E001", exit_code=2)
    assert not workbench.config.exists()
    assert not workbench.state.exists()
