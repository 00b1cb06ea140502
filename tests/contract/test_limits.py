"""A limit to the speed holds within an object too, where the SDK lets one pause."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import pytest

from object_servers import GcsServer, S3Server
from pgkeep import stores
from pgkeep.pacing import Pace
from pgkeep.stores import Store, StoreSettings, open_store
from pgkeep.stores import remote as remote_stores

DATA = bytes(range(250)) * 4000
"""A million bytes: ten eighths of a second at the limit."""
LIMIT = 800_000


class Waits:
    """Takes the place of sleeping, on a clock that stands still."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seconds: list[float] = []
        self._mutex = threading.Lock()
        monkeypatch.setattr(remote_stores, "Pace", self._pace)
        monkeypatch.setattr(stores, "Pace", self._pace)

    def _pace(self, limit: int | None) -> Pace:
        return Pace(limit, sleep=self._wait, clock=lambda: 0.0)

    def _wait(self, seconds: float) -> None:
        with self._mutex:
            self.seconds.append(seconds)


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> Waits:
    return Waits(monkeypatch)


def limited(
    kind: str, request: pytest.FixtureRequest, folder: Path, *, up: int | None, down: int | None
) -> Store:
    if kind == "file":
        url, settings = folder.as_uri(), StoreSettings()
    elif kind == "s3":
        s3: S3Server = request.getfixturevalue("rclone")
        url, settings = f"s3://{s3.new_bucket()}", s3.settings()
    else:
        gcs: GcsServer = request.getfixturevalue("gcs")
        url = f"gs://{gcs.new_bucket()}"
        settings = StoreSettings(
            endpoint=gcs.endpoint, credentials_file=gcs.service_account(folder)
        )
    return open_store(url, replace(settings, upload_limit=up, download_limit=down))


@pytest.mark.parametrize("kind", ["s3", "gs"])
def test_an_upload_goes_out_evenly(
    waits: Waits, request: pytest.FixtureRequest, tmp_path: Path, kind: str
) -> None:
    store = limited(kind, request, tmp_path, up=LIMIT, down=None)
    store.put("a", DATA)
    assert store.get("a") == DATA
    # What envelops the bytes on the way to GCS takes its time too.
    assert len(waits.seconds) in (10, 11, 12)
    assert waits.seconds[:10] == pytest.approx([number / 8 for number in range(10)], abs=0.001)


@pytest.mark.parametrize("kind", ["s3"])
def test_a_download_is_taken_in_evenly(
    waits: Waits, request: pytest.FixtureRequest, tmp_path: Path, kind: str
) -> None:
    store = limited(kind, request, tmp_path, up=None, down=LIMIT)
    store.put("a", DATA)
    assert store.get("a") == DATA
    assert waits.seconds == pytest.approx([number / 8 for number in range(1, 11)])


@pytest.mark.parametrize(("kind", "up"), [("gs", None), ("file", LIMIT)])
def test_elsewhere_objects_take_their_turns(
    waits: Waits, request: pytest.FixtureRequest, tmp_path: Path, kind: str, up: int | None
) -> None:
    store = limited(kind, request, tmp_path, up=up, down=LIMIT)
    store.put("a", DATA)
    for _ in range(2):
        assert store.get("a") == DATA
    assert waits.seconds == [0, 1.25, 2.5] if up else [1.25, 2.5]
