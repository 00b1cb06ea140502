"""Patience and limits around any store, by a clock that moves only when somebody sleeps."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from pgkeep.errors import ObjectMissing, StoreError, StoreFull, StoreUnavailable
from pgkeep.stores import RetryingStore, RetryPolicy, Store, StoredFile, ThrottledStore
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
        return ThrottledStore(MemoryStore(), upload_limit=10**10, download_limit=10**10)


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
    return ThrottledStore(
        MemoryStore(), upload_limit=up, download_limit=down, sleep=time.sleep, clock=time.clock
    )


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
    store = ThrottledStore(MemoryStore(), upload_limit=100, sleep=waits.append, clock=lambda: 0.0)
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
