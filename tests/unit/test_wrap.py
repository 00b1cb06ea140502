"""Patience and limits around any store, by a clock that moves only when somebody sleeps."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

import pytest

from pgkeep.errors import ObjectMissing, StoreError, StoreFull, StoreUnavailable
from pgkeep.pacing import Pace
from pgkeep.stores import RetryingStore, RetryPolicy, Store, StoredFile, ThrottledStore
from pgkeep.stores.remote import BLOCK_BYTES, PacedBody
from pgkeep.testing import FaultyStore, MemoryStore, Method, StoreContract


class Time:
    """A clock in seconds that passes only by sleeping."""

    def __init__(self) -> None:
        self.now = 100.0
        self.sleeps: list[float] = []
        self._mutex = threading.Lock()

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        with self._mutex:
            self.now += seconds
            self.sleeps.append(seconds)


class TestRetryingStore(StoreContract):
    @pytest.fixture
    def store(self) -> Store:
        return RetryingStore(MemoryStore())


class TestThrottledStore(StoreContract):
    @pytest.fixture
    def store(self) -> Store:
        return ThrottledStore(MemoryStore(), upload=Pace(10**10), download=Pace(10**10))


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def faulty() -> FaultyStore:
    store = FaultyStore(MemoryStore())
    store.put("a/b", b"text")
    store.calls.clear()
    return store


def retrying(
    store: Store, time: Time, policy: RetryPolicy | None = None, share: float = 1
) -> RetryingStore:
    return RetryingStore(store, policy, sleep=time.sleep, clock=time.clock, share=lambda: share)


def away() -> StoreUnavailable:
    return StoreUnavailable("the server answered 503", hint="Wait.")


def fail_times(store: FaultyStore, method: Method, times: int) -> None:
    for call in range(1, times + 1):
        store.fail(method, away(), call=call)


# --- patience -------------------------------------------------------------------------------


CALLS: dict[Method, Callable[[Store], object]] = {
    "put": lambda store: store.put("a/b", b"text"),
    "get": lambda store: store.get("a/b"),
    "size": lambda store: store.size("a/b"),
    "list": lambda store: list(store.list("")),
    "folders": lambda store: list(store.folders("")),
    "delete": lambda store: store.delete("a/c"),
}


@pytest.mark.parametrize("method", CALLS)
def test_every_call_is_tried_again_with_growing_pauses(
    faulty: FaultyStore, time: Time, method: Method
) -> None:
    fail_times(faulty, method, 5)
    assert CALLS[method](retrying(faulty, time)) == CALLS[method](faulty)
    assert time.sleeps == [0.5, 1, 2, 4, 8]
    assert len(faulty.calls) == 6 + 1


def test_pauses_are_random_up_to_their_longest(time: Time) -> None:
    policy = RetryPolicy()
    assert [policy.pause_seconds(n, 0.5) for n in (1, 2, 3, 6, 7, 8, 1000)] == [
        0.25, 0.5, 1, 8, 10, 10, 10,
    ]  # fmt: skip
    assert policy.pause_seconds(5, 0) == 0


def test_after_so_many_attempts_it_gives_up_and_says_how_often(
    faulty: FaultyStore, time: Time
) -> None:
    fail_times(faulty, "get", 10)
    with pytest.raises(StoreUnavailable) as caught:
        retrying(faulty, time, RetryPolicy(attempts=4)).get("a/b")
    assert caught.value.message == "the server answered 503 (tried 4 times in 4 s)"
    assert caught.value.hint == "Wait."
    assert len(faulty.calls) == 4


def test_after_so_long_it_gives_up_however_few_the_attempts(
    faulty: FaultyStore, time: Time
) -> None:
    fail_times(faulty, "get", 100)
    with pytest.raises(StoreUnavailable, match=r"tried 5 times in 8 s"):
        retrying(faulty, time, RetryPolicy(attempts=100, total_seconds=10)).get("a/b")
    assert time.now - 100 <= 10


def test_one_attempt_is_no_retry(faulty: FaultyStore, time: Time) -> None:
    fail_times(faulty, "get", 1)
    with pytest.raises(StoreUnavailable, match=r"503$"):
        retrying(faulty, time, RetryPolicy(attempts=1)).get("a/b")
    assert time.sleeps == []


@pytest.mark.parametrize("error", [ObjectMissing("x"), StoreFull("x"), StoreError("x")])
def test_other_errors_are_not_tried_again(
    faulty: FaultyStore, time: Time, error: StoreError
) -> None:
    faulty.fail("get", error)
    with pytest.raises(type(error)):
        retrying(faulty, time).get("a/b")
    assert len(faulty.calls) == 1


def test_a_listing_that_breaks_off_gives_each_name_once(time: Time) -> None:
    class Breaking(MemoryStore):
        def __init__(self) -> None:
            super().__init__()
            self.listings = 0

        def list(self, prefix: str):  # type: ignore[no-untyped-def]
            self.listings += 1
            for number, file in enumerate(super().list(prefix)):
                if number == self.listings and self.listings < 3:
                    raise away()
                yield file

    store = Breaking()
    for name in "abcd":
        store.put(name, b"")
    assert list(retrying(store, time).list("")) == [StoredFile(name, 0) for name in "abcd"]
    assert store.listings == 3


def test_the_lock_and_the_facts_are_those_of_the_store(faulty: FaultyStore, time: Time) -> None:
    for store in (retrying(faulty, time), ThrottledStore(faulty)):
        with store.exclusive("backup"):
            assert faulty.calls[-1] == ("exclusive", "backup")
        assert store.facts() == faulty.facts()
        assert store.url == faulty.url


# --- a limit to the speed ---------------------------------------------------------------------


def throttled(time: Time, *, up: int | None = None, down: int | None = None) -> ThrottledStore:
    def pace(limit: int | None) -> Pace:
        return Pace(limit, sleep=time.sleep, clock=time.clock)

    return ThrottledStore(MemoryStore(), upload=pace(up), download=pace(down))


def test_uploads_wait_for_those_before_them(time: Time) -> None:
    store = throttled(time, up=100)
    store.put("a", bytes(500))
    assert time.now == 100
    store.put("b", bytes(200))
    assert time.now == 105
    store.put("c", b"")
    assert time.now == 107
    store.get("a")
    assert time.now == 107


def test_downloads_are_paid_for_when_they_have_come(time: Time) -> None:
    store = throttled(time, down=100)
    store.put("a", bytes(500))
    store.get("a")
    assert time.now == 105
    store.get("a")
    assert time.now == 110


def test_time_in_which_nothing_was_sent_is_not_made_up_for(time: Time) -> None:
    store = throttled(time, up=100)
    store.put("a", bytes(100))
    time.now += 1000
    store.put("b", bytes(300))
    store.put("c", bytes(100))
    assert time.now == 1103


def test_threads_share_the_limit_in_the_order_in_which_they_came() -> None:
    waits: list[float] = []
    pace = Pace(100, sleep=waits.append, clock=lambda: 0.0)
    store = ThrottledStore(MemoryStore(), upload=pace)
    threads = [threading.Thread(target=store.put, args=(str(n), bytes(50))) for n in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(waits) == [n * 0.5 for n in range(20)]


def test_no_limit_waits_for_nothing(time: Time) -> None:
    store = throttled(time)
    store.put("a", bytes(10**6))
    store.get("a")
    assert time.now == 100


# --- evenly within a file ---------------------------------------------------------------------


def body_of(size: int, pace: Pace) -> PacedBody:
    body = PacedBody(bytes(n % 251 for n in range(size)), pace)
    body.begin_sending()
    return body


def test_a_body_is_sent_in_blocks_of_an_eighth_of_a_second(time: Time) -> None:
    body = body_of(200, Pace(80, sleep=time.sleep, clock=time.clock))
    sent = [bytes(block) for block in iter(lambda: body.read(16384), b"")]
    assert b"".join(sent) == bytes(range(200))
    assert [len(block) for block in sent] == [10] * 20
    assert time.sleeps[:20] == [0, *[0.125] * 19]


def test_a_body_that_is_sent_again_is_paid_for_again(time: Time) -> None:
    body = body_of(80, Pace(80, sleep=time.sleep, clock=time.clock))
    for _ in range(2):
        body.seek(0)
        while body.read():
            pass
        assert body.tell() == 80
    assert time.now == 102


def test_hashing_a_body_waits_for_nothing(time: Time) -> None:
    body = PacedBody(b"0123456789", Pace(1, sleep=time.sleep, clock=time.clock))
    assert body.seek(0, os.SEEK_END) == 10
    assert bytes(body.read()) == b""
    body.seek(0)
    assert [bytes(block) for block in iter(lambda: body.read(4), b"")] == [b"0123", b"4567", b"89"]
    assert body.tell() == 10
    body.seek(2)
    assert bytes(body.read()) == b"23456789"
    assert time.sleeps == []


def test_without_a_limit_blocks_are_large_and_wait_for_nothing() -> None:
    body = body_of(BLOCK_BYTES + 1, Pace(None))
    assert [len(body.read()) for _ in range(3)] == [BLOCK_BYTES, 1, 0]


def test_bodies_of_several_threads_share_one_line(time: Time) -> None:
    pace = Pace(80, sleep=time.sleep, clock=lambda: 0.0)
    first, second = body_of(20, pace), body_of(20, pace)
    for body in (first, second, first, second):
        body.read()
    assert time.sleeps == [0, 0.125, 0.25, 0.375]


def test_a_limit_below_a_block_still_passes_something(time: Time) -> None:
    assert Pace(1, sleep=time.sleep, clock=time.clock).block_bytes(BLOCK_BYTES) == 1
