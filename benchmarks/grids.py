"""Tables of results that have columns of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True, slots=True)
class Grid:
    """What is shown, and the numbers behind it as they go into the JSON document."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()
    numbers: Sequence[Mapping[str, object]] = ()


def show(console: Console, grid: Grid) -> None:
    table = Table(title=grid.title, title_justify="left", header_style="bold")
    for index, name in enumerate(grid.columns):
        table.add_column(name, justify="right" if index else "left")
    for row in grid.rows:
        table.add_row(*row)
    console.print(table)
    for note in grid.notes:
        console.print(note)


def markdown(grid: Grid) -> str:
    lines = [f"**{grid.title}**", "", "| " + " | ".join(grid.columns) + " |"]
    lines.append("|---" + "|---:" * (len(grid.columns) - 1) + "|")
    cells = [[cell.replace("|", "\\|") for cell in row] for row in grid.rows]
    lines += ["| " + " | ".join(row) + " |" for row in cells]
    for note in grid.notes:
        lines += ["", note]
    return "\n".join([*lines, ""])


def document(grid: Grid) -> dict[str, object]:
    return {"title": grid.title, "rows": list(grid.numbers), "notes": list(grid.notes)}
