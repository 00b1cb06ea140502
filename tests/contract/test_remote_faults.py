"""Bad networks and lying servers before the object stores: what recovers, what gives up, what is
found out by the layers above."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256

import pytest

from examples import MOMENT, manifest_in
from fault_proxy import (
    Answer,
    Cut,
    CutAnswer,
    Fault,
    FaultProxy,
    FlipAnswer,
    FlipUpload,
    SlowUpload,
    Stall,
)
from object_servers import SECRET_KEY, GcsServer, S3Server, free_port
from pgkeep.errors import DamagedObject, ObjectMissing, StoreUnavailable
from pgkeep.model import ObjectName, StoredObject
from pgkeep.repository.objects import ObjectSource
from pgkeep.repository.repository import Repository
from pgkeep.sealing import SigningKey
from pgkeep.stores import RetryingStore, RetryPolicy, Store, StoredFile, StoreSettings
from pgkeep.stores.gcs import GcsStore
from pgkeep.stores.remote import parse_place
from pgkeep.stores.s3 import S3Store

ATTEMPTS = 3
DATA = bytes(range(256)) * 400
SILENCE_SECONDS = 0.2
PATIENCE_SECONDS = 30

SLOW_DOWN = (
    b'<?xml version="1.0" encoding="UTF-8"?><Error><Code>SlowDown</Code>'
    b"<Message>Please reduce your request rate.</Message></Error>"
)
EMPTY_LIST = (
    b'<?xml version="1.0" encoding="UTF-8"?>'
    b'<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
    b"<IsTruncated>false</IsTruncated><KeyCount>0</KeyCount></ListBucketResult>"
)


@dataclass(slots=True)
class Remote:
    """A store whose server is behind a proxy, and the same place without the proxy."""

    proxy: FaultProxy
    open: Callable[[str, float], Store]
    """A store for an endpoint, with the seconds for which it may be silent."""
    server: str
    empty_list: Answer
    lost: Answer
    """What a server says that has kept an object."""
    pauses: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.direct = self.open(self.server, PATIENCE_SECONDS)
        self.bare = self.open(self.proxy.endpoint, PATIENCE_SECONDS)
        self.hasty = self.open(self.proxy.endpoint, SILENCE_SECONDS)

    direct: Store = field(init=False)
    bare: Store = field(init=False)
    hasty: Store = field(init=False)

    def patient(self, store: Store | None = None) -> RetryingStore:
        """As users have it, but without waiting between the attempts."""
        return RetryingStore(store or self.bare, RetryPolicy(ATTEMPTS), sleep=self.pauses.append)


@contextmanager
def remote_place(request: pytest.FixtureRequest) -> Iterator[Remote]:
    """An empty place on the server that the fixture's parameter names."""
    if request.param == "s3":
        server: S3Server = request.getfixturevalue("rclone")
        place = parse_place(f"s3://{server.new_bucket()}/folder")

        def open_s3(endpoint: str, seconds: float) -> Store:
            return S3Store(place, server.settings(endpoint=endpoint, timeout_seconds=seconds))

        with FaultProxy(server.endpoint) as proxy:
            yield Remote(proxy, open_s3, server.endpoint, Answer(200, EMPTY_LIST), Answer(200))
        return
    emulator: GcsServer = request.getfixturevalue("gcs")
    place = parse_place(f"gs://{emulator.new_bucket()}/folder")
    key = emulator.service_account(request.getfixturevalue("tmp_path_factory").mktemp("key"))

    def open_gcs(endpoint: str, seconds: float) -> Store:
        settings = StoreSettings(endpoint=endpoint, credentials_file=key, timeout_seconds=seconds)
        return GcsStore(place, settings)

    with FaultProxy(emulator.endpoint) as proxy:
        nothing = Answer(200, b"{}", {"Content-Type": "application/json"})
        yield Remote(proxy, open_gcs, emulator.endpoint, nothing, nothing)


@pytest.fixture(params=["s3", "gs"])
def remote(request: pytest.FixtureRequest) -> Iterator[Remote]:
    """An empty place of a test's own."""
    with remote_place(request) as place:
        yield place


@pytest.fixture(scope="module", params=["s3", "gs"])
def shared(request: pytest.FixtureRequest) -> Iterator[Remote]:
    with remote_place(request) as place:
        yield place


@pytest.fixture
def filled(shared: Remote) -> Remote:
    """A place with one object, `a/b`, that these tests share."""
    shared.proxy.clear()
    shared.pauses.clear()
    shared.direct.put("a/b", DATA)
    return shared


CALLS: dict[str, Callable[[Store], object]] = {
    "put": lambda store: store.put("a/b", DATA),
    "get": lambda store: store.get("a/b"),
    "size": lambda store: store.size("a/b"),
    "list": lambda store: list(store.list("a/")),
    "folders": lambda store: list(store.folders("")),
    "delete": lambda store: store.delete("a/none"),
}
ANSWERS: dict[str, object] = {
    "put": None,
    "get": DATA,
    "size": len(DATA),
    "list": [StoredFile("a/b", len(DATA))],
    "folders": ["a"],
    "delete": None,
}

FAULTS: dict[str, Fault] = {
    "500": Answer(500),
    "503": Answer(503, SLOW_DOWN),
    "429": Answer(429),
    "html": Answer(502, b"<html>Bad gateway</html>", {"Content-Type": "text/html"}),
    "no answer": Stall(),
    "cut": Cut(0),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
@pytest.mark.parametrize("call", CALLS)
def test_what_fails_for_a_moment_recovers(filled: Remote, call: str, fault: Fault) -> None:
    if isinstance(fault, Stall):  # once: on a busy machine a good answer may come late too
        filled.proxy.on(fault, times=1)
        assert CALLS[call](filled.patient(filled.hasty)) == ANSWERS[call]
        assert filled.pauses
    else:
        filled.proxy.on(fault, times=ATTEMPTS - 1)
        assert CALLS[call](filled.patient()) == ANSWERS[call]
        assert len(filled.pauses) == ATTEMPTS - 1
    assert filled.direct.get("a/b") == DATA


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
@pytest.mark.parametrize("call", ["put", "get"])
def test_what_keeps_failing_is_given_up(filled: Remote, call: str, fault: Fault) -> None:
    filled.proxy.on(fault)
    store = filled.open(filled.proxy.endpoint, 0.1) if isinstance(fault, Stall) else filled.bare
    with pytest.raises(StoreUnavailable, match=rf"'a/b'.*\(tried {ATTEMPTS} times in \d+ s\)") as e:
        CALLS[call](filled.patient(store))
    assert len(filled.pauses) == ATTEMPTS - 1
    for secret in (SECRET_KEY, "Signature", "X-Amz", "127.0.0.1"):
        assert secret not in e.value.message + e.value.hint


@pytest.mark.parametrize("call", CALLS)
def test_the_store_itself_asks_once(filled: Remote, call: str) -> None:
    filled.proxy.on(Answer(503, SLOW_DOWN), times=1)
    with pytest.raises(StoreUnavailable, match="the server answered 503"):
        CALLS[call](filled.bare)
    assert len(filled.proxy.requests) == 1


@pytest.mark.parametrize("then_stall", [False, True])
def test_a_download_that_breaks_off_recovers(filled: Remote, then_stall: bool) -> None:
    half = CutAnswer(len(DATA) // 2, then_stall=then_stall)
    store = filled.hasty if then_stall else filled.bare
    filled.proxy.on(half, method="GET", times=1)
    with pytest.raises(StoreUnavailable, match=r"cut off|did not answer|was cut"):
        store.get("a/b")
    filled.proxy.on(half, method="GET", times=1)
    assert filled.patient(store).get("a/b") == DATA


def test_an_upload_that_breaks_off_leaves_the_old_object_and_recovers(filled: Remote) -> None:
    new = DATA[::-1] * 20
    filled.proxy.on(Cut(100_000), method="P*", times=1)
    with pytest.raises(StoreUnavailable, match=r"cannot write 'a/b'.*cut"):
        filled.bare.put("a/b", new)
    assert filled.direct.get("a/b") == DATA
    filled.proxy.on(Cut(100_000), method="P*", times=ATTEMPTS - 1)
    filled.patient().put("a/b", new)
    assert filled.direct.get("a/b") == new


def test_an_upload_that_is_slow_but_goes_on_is_not_given_up(filled: Remote) -> None:
    new = DATA * 200
    filled.proxy.on(SlowUpload(12, 0.1), method="PUT")
    store = filled.open(filled.proxy.endpoint, 0.6)  # half of what the whole takes
    filled.patient(store).put("a/b", new)
    assert filled.direct.get("a/b") == new


def test_no_server_at_all_is_told(remote: Remote) -> None:
    store = remote.open(f"http://127.0.0.1:{free_port()}", PATIENCE_SECONDS)
    with pytest.raises(StoreUnavailable, match=r"cannot read 'a'.*connection"):
        remote.patient(store).get("a")


# --- lies -----------------------------------------------------------------------------------


def test_an_upload_that_changed_on_the_way_is_refused_by_the_server(filled: Remote) -> None:
    new = DATA[::-1]
    filled.proxy.on(FlipUpload(), method="P*", times=1)
    with pytest.raises(StoreUnavailable):
        filled.bare.put("a/b", new)
    assert filled.direct.get("a/b") == DATA
    filled.proxy.on(FlipUpload(), method="P*", times=1)
    filled.patient().put("a/b", new)
    assert filled.direct.get("a/b") == new


def test_a_lost_object_is_found_out_before_a_backup_counts(remote: Remote) -> None:
    repository, _ = Repository.open_or_create("far", remote.patient(), now=MOMENT)
    remote.proxy.on(remote.lost, method="P*", times=1)
    listed = manifest_in(remote.patient())
    with pytest.raises(ObjectMissing, match="is missing from"):
        repository.publish(listed, SigningKey.generate())
    assert not [file for file in remote.direct.list("") if "manifest" in file.name]


def test_an_object_that_is_too_short_is_found_out_before_a_backup_counts(remote: Remote) -> None:
    repository, _ = Repository.open_or_create("far", remote.patient(), now=MOMENT)
    listed = manifest_in(remote.patient())
    remote.direct.put(listed.objects[0].name.path, b"ro")
    with pytest.raises(DamagedObject, match="has 2 bytes instead of 4"):
        repository.publish(listed, SigningKey.generate())


def test_a_changed_byte_is_found_out_by_whoever_reads_an_object(remote: Remote) -> None:
    name = ObjectName(sha256(DATA).hexdigest())
    remote.direct.put(name.path, DATA)
    item = StoredObject(name, len(DATA))
    remote.proxy.on(FlipAnswer(), method="GET")
    with pytest.raises((DamagedObject, StoreUnavailable), match=r"damaged|checksum"):
        ObjectSource([remote.patient()]).fetch(item)
    remote.proxy.clear()
    assert ObjectSource([remote.patient()]).fetch(item) == DATA


def test_an_empty_listing_hides_nothing_that_is_asked_for_by_name(filled: Remote) -> None:
    filled.proxy.on(filled.empty_list, method="GET", times=1)
    assert list(filled.patient().list("")) == []
    assert filled.patient().size("a/b") == len(DATA)
    assert list(filled.patient().list("")) == [StoredFile("a/b", len(DATA))]


# --- listings of several pages ----------------------------------------------------------------


def test_a_listing_that_breaks_off_between_pages_gives_each_name_once(rclone: S3Server) -> None:
    assert rclone.folder is not None
    bucket = rclone.new_bucket()
    names = [f"{number % 7}/{number:04}" for number in range(2300)]
    for name in names:
        path = rclone.folder / bucket / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    with FaultProxy(rclone.endpoint) as proxy:
        store = S3Store(parse_place(f"s3://{bucket}"), rclone.settings(endpoint=proxy.endpoint))
        patient = RetryingStore(store, sleep=lambda _: None)
        proxy.on(Answer(503, SLOW_DOWN), match="*continuation-token*", times=1)
        assert [file.name for file in patient.list("")] == sorted(names)
        assert len(proxy.requests) == 2 + 3


# --- many threads -----------------------------------------------------------------------------


def test_many_threads_recover_together(remote: Remote) -> None:
    remote.proxy.on(Answer(503, SLOW_DOWN), times=8)
    store = RetryingStore(remote.bare, RetryPolicy(20), sleep=lambda _: None)
    threads = [
        threading.Thread(target=store.put, args=(f"objects/{number}", DATA)) for number in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(list(remote.direct.list("objects/"))) == len(threads)


def test_a_proxy_without_faults_changes_nothing(remote: Remote) -> None:
    remote.bare.put("large", DATA * 400)
    assert remote.bare.get("large") == DATA * 400 == remote.direct.get("large")
