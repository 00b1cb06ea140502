"""A project of Supabase's comes back whole: in another project, and where there is no platform."""

from __future__ import annotations

from collections.abc import Callable

from conftest import Workbench
from supabase_server import ProjectServer, Version

NewProject = Callable[[Version], ProjectServer]


def restored(
    workbench: Workbench, target: str, *options: str, expect: int | None = 0
) -> dict[str, object]:
    workbench.monkeypatch.setenv("TARGET_URL", target)
    outcome = workbench.pgkeep(
        "restore", "shop", "--target", "env:TARGET_URL", "--json", *options, expect=expect
    )
    document = outcome.document
    assert isinstance(document, dict)
    return document


def test_a_project_comes_back_in_a_newer_one(
    workbench: Workbench, sample_project: ProjectServer, new_project: NewProject
) -> None:
    workbench.init(sample_project.url)
    workbench.pgkeep("backup", "shop")
    print(workbench.pgkeep("show", "shop").out)
    target = new_project("newer")
    document = restored(workbench, target.url, expect=None)
    import json

    print(json.dumps({k: v for k, v in document.items() if k != "tables"}, indent=1))
    raise AssertionError
