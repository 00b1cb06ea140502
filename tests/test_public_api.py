"""What others may use exists and says what it does."""

from __future__ import annotations

import ast
import importlib
import pkgutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import pgkeep

SOURCE = Path(pgkeep.__file__).parent
NAMES = [
    "pgkeep",
    *(
        info.name
        for info in pkgutil.walk_packages([str(SOURCE)], "pgkeep.")
        if info.name != "pgkeep.__main__"
    ),
]
FILES = sorted(SOURCE.rglob("*.py"))

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def test_every_module_is_looked_at() -> None:
    assert len(NAMES) == len(FILES) - 1
    assert {"pgkeep.sealing", "pgkeep.stores", "pgkeep.testing"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_every_exported_name_exists_once_and_in_order(name: str) -> None:
    module = importlib.import_module(name)
    exported = list(getattr(module, "__all__", ()))
    assert [item for item in exported if not hasattr(module, item)] == []
    assert exported == sorted(set(exported))


def test_packages_export_what_they_import_for_others() -> None:
    for name in ("pgkeep.sealing", "pgkeep.stores", "pgkeep.testing"):
        assert importlib.import_module(name).__all__


def undocumented(tree: ast.Module) -> Iterator[str]:
    """Public functions and classes at the top of a module that say nothing."""
    if not ast.get_docstring(tree):
        yield "the module itself"
    for node in tree.body:
        if (
            isinstance(node, Definition)
            and not node.name.startswith("_")
            and not ast.get_docstring(node)
        ):
            yield node.name


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(SOURCE).as_posix())
def test_what_is_public_says_what_it_does(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    if tree.body:
        assert list(undocumented(tree)) == []


def test_what_says_nothing_is_found() -> None:
    code = 'def a(): ...\nclass B: ...\ndef c():\n    """Text."""\ndef _d(): ...\n'
    assert list(undocumented(ast.parse(code))) == ["the module itself", "a", "B"]
