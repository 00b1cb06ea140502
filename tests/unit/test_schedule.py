"""Tasks that unlock tasks: what goes first, and what an error does to the others."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import wait

import pytest

from pgkeep.errors import ConnectionLost, DamagedObject
from pgkeep.recovery import schedule
from pgkeep.recovery.schedule import Task, Urgency, run_tasks

PATIENCE = 10


def never() -> None:
    pytest.fail("on_error was called without an error")


def test_the_most_urgent_goes_first_and_of_those_the_heaviest() -> None:
    order: list[str] = []

    def task(urgency: Urgency, weight: int, name: str) -> Task:
        def run() -> Iterable[Task]:
            order.append(name)
            return ()

        return Task(0, urgency, -weight, run)

    tasks = [
        task(Urgency.COMPARE, 99, "compare"),
        task(Urgency.LOAD, 1, "light"),
        task(Urgency.LOAD, 5, "heavy"),
        task(Urgency.LOAD, 5, "heavy, came later"),
        task(Urgency.FINISH, 50, "finish"),
        task(Urgency.INDEX, 0, "index"),
    ]
    run_tasks(tasks, workers=1, on_error=never)
    assert order == ["index", "heavy", "heavy, came later", "light", "finish", "compare"]


def test_tasks_that_a_task_returns_take_their_place_among_the_others() -> None:
    order: list[str] = []

    def task(urgency: Urgency, name: str, *more: Task) -> Task:
        def run() -> Iterable[Task]:
            order.append(name)
            yield from more

        return Task(0, urgency, 0, lambda: list(run()))

    index = task(Urgency.INDEX, "index of a", task(Urgency.FINISH, "analyze a"))
    first = task(Urgency.LOAD, "a", index, task(Urgency.COMPARE, "compare a"))
    run_tasks([first, task(Urgency.LOAD, "b")], workers=1, on_error=never)
    assert order == ["a", "index of a", "b", "analyze a", "compare a"]


def test_nothing_to_do_is_done() -> None:
    run_tasks([], workers=3, on_error=never)


def test_as_many_run_at_once_as_there_are_workers_and_no_more() -> None:
    together = threading.Barrier(3, timeout=PATIENCE)
    running, most, lock = 0, 0, threading.Lock()

    def run() -> Iterable[Task]:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        together.wait()
        with lock:
            running -= 1
        return ()

    run_tasks([Task(0, Urgency.LOAD, 0, run) for _ in range(9)], workers=3, on_error=never)
    assert most == 3


def test_the_first_error_is_raised_when_all_has_stopped_and_nothing_new_begins() -> None:
    begun: list[str] = []
    ended = threading.Event()
    both = threading.Barrier(2, timeout=PATIENCE)
    stopped_before_raise = threading.Event()

    def failing() -> Iterable[Task]:
        begun.append("failing")
        both.wait()
        raise DamagedObject("object x is damaged")

    def long_one() -> Iterable[Task]:
        begun.append("long")
        both.wait()
        assert ended.wait(PATIENCE)
        time.sleep(0.05)
        stopped_before_raise.set()
        raise ConnectionLost("the connection was ended")

    def third() -> Iterable[Task]:
        begun.append("third")
        return ()

    runs: list[Callable[[], Iterable[Task]]] = [failing, long_one, third]
    tasks = [Task(0, Urgency.LOAD, number, run) for number, run in enumerate(runs)]
    with pytest.raises(DamagedObject, match="object x is damaged"):
        run_tasks(tasks, workers=2, on_error=ended.set)
    assert sorted(begun) == ["failing", "long"]
    assert stopped_before_raise.is_set()


def test_a_cut_connection_is_not_the_cause_where_there_is_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(schedule, "wait", lambda running, return_when: wait(running))

    def fail(error: Exception) -> Callable[[], Iterable[Task]]:
        def run() -> Iterable[Task]:
            raise error

        return run

    tasks = [
        Task(0, Urgency.LOAD, 0, fail(ConnectionLost("cut"))),
        Task(0, Urgency.LOAD, 1, fail(DamagedObject("cause"))),
    ]
    for order in (tasks, tasks[::-1]):
        with pytest.raises(DamagedObject, match="cause"):
            run_tasks(order, workers=2, on_error=lambda: None)
    with pytest.raises(ConnectionLost, match="cut"):
        run_tasks(tasks[:1], workers=2, on_error=lambda: None)


def test_an_error_while_tasks_are_handed_back_counts_too() -> None:
    called = threading.Event()

    def late(_: int) -> Task:
        raise DamagedObject("late")

    with pytest.raises(DamagedObject, match="late"):
        run_tasks(
            [Task(0, Urgency.LOAD, 0, lambda: map(late, [1]))], workers=1, on_error=called.set
        )
    assert called.is_set()
