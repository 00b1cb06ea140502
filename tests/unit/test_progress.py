"""Progress for programs: one JSON object a line, in sums, and not too many."""

from __future__ import annotations

import json

from pgkeep.cli.progress import JsonReporter
from pgkeep.events import Noticed, Progressed, StageBegan, StageEnded


class Listener:
    """Lines as they come, and the time that they are told at."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.now = 10.0

    @property
    def documents(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in self.lines]

    def reporter(self, *, quiet: bool = False) -> JsonReporter:
        return JsonReporter(self.lines.append, quiet=quiet, clock=lambda: self.now)


def test_a_stage_is_told_from_begin_to_end() -> None:
    listener = Listener()
    with listener.reporter() as reporter:
        reporter.report(StageBegan("reading", 1000, 10))
        listener.now += 0.2
        reporter.report(Progressed("reading", 100, 1))
        listener.now += 0.31
        reporter.report(Progressed("reading", 200, 2))
        listener.now += 0.5
        reporter.report(StageEnded("reading", "3 rows"))
    assert listener.documents == [
        {"event": "began", "stage": "reading", "total_bytes": 1000, "total_rows": 10},
        {
            "event": "progress", "stage": "reading", "total_bytes": 1000, "total_rows": 10,
            "bytes": 300, "rows": 3, "seconds": 0.51,
        },
        {
            "event": "ended", "stage": "reading", "bytes": 300, "rows": 3, "seconds": 1.01,
            "summary": "3 rows",
        },
    ]  # fmt: skip
    assert all(line.endswith("}\n") and line.count("\n") == 1 for line in listener.lines)


def test_progress_is_told_twice_a_second_at_most() -> None:
    listener = Listener()
    reporter = listener.reporter()
    reporter.report(StageBegan("reading"))
    for _ in range(1000):
        listener.now += 0.01
        reporter.report(Progressed("reading", 1, 1))
    told = [int(str(one["bytes"])) for one in listener.documents if one["event"] == "progress"]
    assert 15 <= len(told) <= 20
    assert told == sorted(told)


def test_progress_of_a_stage_that_has_not_begun_is_not_told() -> None:
    listener = Listener()
    listener.reporter().report(Progressed("reading", 1, 1))
    listener.reporter().report(StageEnded("reading"))
    assert [one["event"] for one in listener.documents] == ["ended"]


def test_notices_are_told_even_if_nothing_else_is() -> None:
    listener = Listener()
    reporter = listener.reporter(quiet=True)
    for event in (StageBegan("a"), Progressed("a", 1), StageEnded("a"), Noticed("ä\n", "Do.")):
        reporter.report(event)
    assert listener.documents == [{"event": "notice", "message": "ä\n", "hint": "Do."}]
    assert len(listener.lines) == 1


def test_a_listener_that_has_gone_does_not_end_the_work() -> None:
    def gone(_: str) -> None:
        raise BrokenPipeError

    JsonReporter(gone).report(StageBegan("reading"))
