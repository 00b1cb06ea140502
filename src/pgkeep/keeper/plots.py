"""Small line plots as SVG, without any script: for a report that is printed or mailed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from html import escape

from pgkeep.keeper.audit import Point

_WIDTH, _HEIGHT = 640, 180
_LEFT, _RIGHT, _TOP, _BOTTOM = 76, 12, 12, 26
_STEPS = 4


def line_plot(points: Sequence[Point], label: str, show: Callable[[float], str]) -> str:
    """A plot over time; the vertical axis begins at nothing. `show` writes a value."""
    if not points:
        return '<p class="none">Nothing was measured.</p>'
    first, last = points[0].at, points[-1].at
    top = _round_up(max(one.value for one in points))
    across = (last - first).total_seconds() or 1.0

    def x(at: datetime) -> float:
        share = (at - first).total_seconds() / across if last > first else 0.5
        return _LEFT + share * (_WIDTH - _LEFT - _RIGHT)

    def y(value: float) -> float:
        return _HEIGHT - _BOTTOM - value / top * (_HEIGHT - _TOP - _BOTTOM)

    grid = "".join(
        f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y(v):.1f}" y2="{y(v):.1f}" class="grid"/>'
        f'<text x="{_LEFT - 8}" y="{y(v) + 4:.1f}" class="axis" text-anchor="end">'
        f"{escape(show(v))}</text>"
        for v in (top * step / _STEPS for step in range(_STEPS + 1))
    )
    path = " ".join(f"{x(one.at):.1f},{y(one.value):.1f}" for one in points)
    dots = "".join(
        f'<circle cx="{x(one.at):.1f}" cy="{y(one.value):.1f}" r="2.5"/>' for one in points
    ) if len(points) <= 62 else ""  # fmt: skip
    form = "%Y-%m-%d" if last.date() > first.date() else "%Y-%m-%d %H:%M"
    dates = (
        f'<text x="{_LEFT}" y="{_HEIGHT - 6}" class="axis">{first:{form}}</text>'
        f'<text x="{_WIDTH - _RIGHT}" y="{_HEIGHT - 6}" class="axis" text-anchor="end">'
        f"{last:{form}}</text>"
    )
    said = (
        f"{label}: {show(points[0].value)} on {first:%Y-%m-%d}, {show(points[-1].value)} on"
        f" {last:%Y-%m-%d}, at most {show(max(one.value for one in points))}"
    )
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(said, quote=True)}">'
        f'{grid}<polyline points="{path}"/>{dots}{dates}</svg>'
    )


def _round_up(value: float) -> float:
    """To one digit, so that the axis has round numbers."""
    if value <= 0:
        return 1.0
    magnitude = 10.0 ** (len(str(int(value))) - 1) if value >= 1 else 0.1
    while magnitude > value:
        magnitude /= 10
    for factor in (1, 2, 4, 5, 8, 10):
        if factor * magnitude >= value:
            return factor * magnitude
    return 10 * magnitude
