"""Work that unlocks other work, run by a few threads, the most important first."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from enum import IntEnum

from pgkeep.errors import ConnectionLost


class Urgency(IntEnum):
    """What goes first when several things could: building an index takes longest of all."""

    INDEX = 0
    LOAD = 1
    FINISH = 2
    COMPARE = 3


@dataclass(slots=True, order=True)
class Task:
    """One thing to do; heavier ones of the same urgency go first. It may return more tasks.

    What has a lower rank goes before everything that has a higher one.
    """

    rank: int
    urgency: Urgency
    minus_weight: int
    run: Callable[[], Iterable[Task]] = field(compare=False)


def run_tasks(tasks: Iterable[Task], *, workers: int, on_error: Callable[[], None]) -> None:
    """Run tasks and those that they return, until none is left or one fails.

    After the first failure nothing new begins; `on_error` is called so that what runs can be
    ended, and the error that came first is raised when all has stopped.
    """
    order = itertools.count()
    waiting = [(task, next(order)) for task in tasks]
    heapq.heapify(waiting)
    running: set[Future[Iterable[Task]]] = set()
    with ThreadPoolExecutor(workers, thread_name_prefix="pgkeep-restore") as executor:
        try:
            while waiting or running:
                while waiting and len(running) < workers:
                    running.add(executor.submit(heapq.heappop(waiting)[0].run))
                done, running = wait(running, return_when=FIRST_COMPLETED)
                _raise_first(done)
                for future in done:
                    for task in future.result():
                        heapq.heappush(waiting, (task, next(order)))
        except BaseException:
            on_error()
            raise


def _raise_first(done: Iterable[Future[Iterable[Task]]]) -> None:
    errors = [error for future in done if (error := future.exception()) is not None]
    if errors:
        raise min(errors, key=lambda error: isinstance(error, ConnectionLost))
