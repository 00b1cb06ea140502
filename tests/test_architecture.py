"""The house: an import points only to a lower floor, and no module or function grows too large."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src"

# A module may import from lower floors and from its own package, wherever the import stands.
FLOORS: dict[str, int] = {
    "pgkeep": 0,  # the version
    "errors": 0,
    "model": 0,
    "events": 0,
    "findings": 0,
    "networks": 0,
    "pacing": 0,
    "records": 0,
    "config": 1,
    "sealing": 1,
    "stores": 1,
    "postgres": 1,
    "repository": 2,
    "backup": 3,
    "capture": 3,
    "recovery": 3,
    "platforms": 2,
    "doctor": 4,
    "keeper": 4,
    "demo": 5,
    "cli": 5,
    "web": 5,
    "__main__": 6,
    "testing": 3,
}

# What is on one floor and may be seen all the same: (from, to).
BESIDES = {("cli", "demo"), ("networks", "errors")}

# Where floors alone would allow more than is meant.
ONLY: dict[str, set[str]] = {
    "sealing": {"sealing", "errors"},
    "testing": {"errors", "model", "events", "pacing", "config", "sealing", "stores", "postgres",
                "repository"},
}  # fmt: skip

MAY_IMPORT_CLI = {"cli", "demo", "__main__"}
MAY_IMPORT_TESTING: set[str] = set()
VAGUE = {"utils", "util", "helpers", "helper", "common", "manager", "misc"}
MODULE_LINES = 700
FUNCTION_LINES = 80

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Module:
    """A module of ours with its syntax tree."""

    name: str
    path: Path
    tree: ast.Module

    @property
    def package(self) -> str:
        """The room of the house: the word after `pgkeep`, or `pgkeep` itself."""
        return room(self.name)


def room(name: str) -> str:
    words = name.split(".")
    return words[1] if len(words) > 1 else words[0]


def modules() -> dict[str, Module]:
    found = {}
    for path in sorted((SOURCE / "pgkeep").rglob("*.py")):
        words = path.relative_to(SOURCE).with_suffix("").parts
        name = ".".join(words[:-1] if words[-1] == "__init__" else words)
        found[name] = Module(name, path, ast.parse(path.read_text(encoding="utf-8")))
    return found


MODULES = modules()


def imports(module: Module, known: dict[str, Module] = MODULES) -> Iterator[tuple[str, int]]:
    """The modules of ours that it imports, with the line; also those within functions."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = absolute(module, node)
            whole = [f"{base}.{alias.name}" for alias in node.names]
            names = [name if name in known else base for name in whole]
        else:
            continue
        for name in names:
            if name.split(".")[0] == "pgkeep":
                yield name, node.lineno


def absolute(module: Module, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    is_package = module.path.name == "__init__.py"
    words = module.name.split(".")
    above = words[: len(words) - node.level + is_package]
    return ".".join([*above, *([node.module] if node.module else [])])


def allowed(source: str, target: str) -> bool:
    if source == target or (source, target) in BESIDES:
        return True
    if source in ONLY:
        return target in ONLY[source]
    return FLOORS[target] < FLOORS[source] or (target == "pgkeep" and source != "pgkeep")


def violations(module: Module) -> list[str]:
    return [
        f"{module.name}:{line} imports {target}"
        for target, line in imports(module)
        if not allowed(module.package, room(target))
    ]


# --- floors ---------------------------------------------------------------------------------


def test_there_is_a_house() -> None:
    assert {"pgkeep", "pgkeep.stores.base", "pgkeep.cli.main"} <= MODULES.keys()
    assert sum(1 for module in MODULES.values() for _ in imports(module)) > 100


def test_every_room_has_a_floor() -> None:
    assert {module.package for module in MODULES.values()} <= FLOORS.keys()


@pytest.mark.parametrize("name", MODULES)
def test_an_import_points_only_to_a_lower_floor(name: str) -> None:
    assert violations(MODULES[name]) == []


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("stores", "postgres"), ("postgres", "stores"), ("postgres", "config"),
        ("sealing", "model"), ("sealing", "stores"), ("repository", "backup"),
        ("backup", "recovery"), ("errors", "model"), ("backup", "cli"), ("demo", "cli"),
        ("testing", "backup"), ("repository", "testing"),
    ],
)  # fmt: skip
def test_the_table_of_floors_forbids(source: str, target: str) -> None:
    assert not allowed(source, target)


def test_the_command_line_is_imported_by_nobody_else() -> None:
    users = {m.package for m in MODULES.values() for n, _ in imports(m) if room(n) == "cli"}
    assert users <= MAY_IMPORT_CLI
    testers = {m.package for m in MODULES.values() for n, _ in imports(m) if room(n) == "testing"}
    assert testers == MAY_IMPORT_TESTING


def test_no_import_comes_round_to_itself() -> None:
    graph = {
        name: {target for target, _ in imports(module) if target in MODULES and target != name}
        for name, module in MODULES.items()
    }
    assert circles(graph) == []


def circles(graph: dict[str, set[str]]) -> list[str]:
    """The nodes from which a path leads back to themselves."""

    def reachable(start: str) -> set[str]:
        seen: set[str] = set()
        todo = list(graph[start])
        while todo:
            node = todo.pop()
            if node not in seen:
                seen.add(node)
                todo += graph[node]
        return seen

    return [name for name in graph if name in reachable(name)]


def test_imports_are_found_wherever_they_stand() -> None:
    code = """
import os, pgkeep.model
from pgkeep import errors, __version__
from pgkeep.stores import base
from . import local
from .local import LocalStore
from ..cli.main import run
def f():
    if True:
        from pgkeep.postgres.address import Address
"""
    module = Module("pgkeep.stores.fake", Path("fake.py"), ast.parse(code))
    assert [name for name, _ in imports(module)] == [
        "pgkeep.model", "pgkeep.errors", "pgkeep", "pgkeep.stores.base", "pgkeep.stores.local",
        "pgkeep.stores.local", "pgkeep.cli.main", "pgkeep.postgres.address",
    ]  # fmt: skip
    assert violations(module) == [
        "pgkeep.stores.fake:7 imports pgkeep.cli.main",
        "pgkeep.stores.fake:10 imports pgkeep.postgres.address",
    ]
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": set()}) == ["b", "c"]


# --- manners --------------------------------------------------------------------------------

EXITS = {"sys.exit", "os._exit", "exit", "quit", "print", "input", "getpass.getpass", "getpass"}


def calls(tree: ast.AST) -> Iterator[tuple[str, int]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node.lineno


def raised_exits(tree: ast.AST) -> Iterator[int]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Raise) and node.exc and "SystemExit" in ast.unparse(node.exc):
            yield node.lineno


def test_nothing_below_the_command_line_prints_prompts_or_exits() -> None:
    found = [
        f"{module.name}:{line} {name}"
        for module in MODULES.values()
        if module.package not in ("cli", "__main__")
        for name, line in [
            *((name, line) for name, line in calls(module.tree) if name in EXITS),
            *(("SystemExit", line) for line in raised_exits(module.tree)),
        ]
    ]
    assert found == []


def test_only_one_module_exits() -> None:
    exits = {m.name for m in MODULES.values() for name, _ in calls(m.tree) if name == "sys.exit"}
    assert exits == {"pgkeep.cli.main"}


def test_no_module_has_a_vague_name() -> None:
    assert [name for name in MODULES if VAGUE.intersection(re.split(r"[._]", name))] == []


def test_no_star_import() -> None:
    stars = [
        module.name
        for module in MODULES.values()
        for node in ast.walk(module.tree)
        if isinstance(node, ast.ImportFrom) and any(alias.name == "*" for alias in node.names)
    ]
    assert stars == []


@pytest.mark.parametrize("name", MODULES)
def test_no_module_and_no_function_is_too_long(name: str) -> None:
    module = MODULES[name]
    assert len(module.path.read_text(encoding="utf-8").splitlines()) <= MODULE_LINES
    long = {
        node.name: node.end_lineno - node.lineno + 1
        for node in ast.walk(module.tree)
        if isinstance(node, Function)
        and node.end_lineno is not None
        and node.end_lineno - node.lineno + 1 > FUNCTION_LINES
    }
    assert long == {}
