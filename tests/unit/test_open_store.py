"""From a URL and settings to a store: what is refused, in which words, and what is imported."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pgkeep.errors import ConfigurationError, ExitCode
from pgkeep.stores import AddingStore, LocalStore, StoreSettings, ThrottledStore, open_store
from pgkeep.stores.remote import PerProcess, parse_place


def refusal(url: str) -> ConfigurationError:
    with pytest.raises(ConfigurationError) as caught:
        open_store(url)
    assert caught.value.exit_code == ExitCode.USAGE
    assert caught.value.hint
    return caught.value


def test_a_url_names_its_store(tmp_path: Path) -> None:
    assert isinstance(open_store(tmp_path.as_uri()), LocalStore)
    for url in ("s3://bucket", "s3://bucket/a/b-1_2.c", "gs://my_bucket.example/a"):
        store = open_store(url)
        assert isinstance(store, AddingStore)
        assert store.url == url
    assert open_store("s3://bucket/a/").url == "s3://bucket/a"
    assert open_store("s3://bucket/").url == "s3://bucket"


def test_a_limit_is_kept_by_every_kind_of_store(tmp_path: Path) -> None:
    settings = StoreSettings(upload_limit=1, download_limit=1)
    assert isinstance(open_store(tmp_path.as_uri(), settings), ThrottledStore)
    for url in ("s3://bucket", "gs://bucket"):  # tests/contract shows that these keep it
        assert isinstance(open_store(url, settings), AddingStore)


@pytest.mark.parametrize("scheme", ["s3", "gs"])
@pytest.mark.parametrize(
    ("rest", "told"),
    [
        ("", "names no bucket"),
        ("/folder", "names no bucket"),
        ("x", "'x' is not the name of a bucket"),
        ("bucket:9000/a", "'bucket:9000' is not the name of a bucket"),
        ("-bucket", "'-bucket' is not the name of a bucket"),
        ("bucket/a b", "'a b' cannot be a repository's folder"),
        ("bucket/a//b", "'a//b' cannot be a repository's folder"),
        ("bucket/../b", "'../b' cannot be a repository's folder"),
        ("bucket/a%20b", "'a%20b' cannot be a repository's folder"),
        ("bucket/é", "cannot be a repository's folder"),
        ("bucket/a?endpoint=x", "is followed by a query"),
        ("bucket/a?", "is followed by a query"),
        ("bucket/a#b", "is followed by a query"),
        ("[bucket/a", "cannot be read"),
    ],
)
def test_a_url_that_cannot_be_right_is_refused_in_clear_words(
    scheme: str, rest: str, told: str
) -> None:
    assert told in refusal(f"{scheme}://{rest}").message


@pytest.mark.parametrize(
    "url", ["s3://key:Secret@bucket/a", "gs://key:Secret@bucket", "ftp://u:Secret@h/a"]
)
def test_a_password_in_a_url_is_refused_and_not_shown(url: str) -> None:
    error = refusal(url)
    assert "Secret" not in error.message + error.hint


def test_a_place_has_whole_keys() -> None:
    place = parse_place("s3://bucket/a/b")
    assert place.key("c/d") == "a/b/c/d"
    assert place.keys("") == "a/b/"
    assert place.keys("c/") == "a/b/c/"
    assert parse_place("s3://bucket").keys("") == ""


# --- what is imported -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "module", "extra"),
    [("s3://bucket", "boto3", "s3"), ("gs://bucket", "google.cloud", "gcs")],
)
def test_a_missing_package_is_told_with_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, url: str, module: str, extra: str
) -> None:
    for name in ("pgkeep.stores.s3", "pgkeep.stores.gcs"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, module, None)
    error = refusal(url)
    assert module in error.message
    assert error.hint == f"Run: pip install '.[{extra}]' in the folder of pgkeep's source."


def test_the_command_line_starts_without_the_sdks() -> None:
    code = (
        "import sys, pgkeep.cli.main, pgkeep.stores as s; s.open_store('file:///a');"
        "sys.exit(any(m.split('.')[0] in ('boto3', 'botocore', 'google', 'requests')"
        " for m in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


# --- one of each in a process -------------------------------------------------------------------


def test_what_is_made_once_is_made_once_for_all_threads() -> None:
    made: list[object] = []
    ready = threading.Barrier(8)

    def make() -> object:
        made.append(object())
        return made[-1]

    once = PerProcess(make)
    seen: list[object] = []

    def ask() -> None:
        ready.wait(10)
        seen.append(once())

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == len(set(map(id, seen))) == 1


def test_a_process_that_was_forked_makes_its_own() -> None:
    once = PerProcess(os.getpid)
    assert once() == os.getpid()
    child = os.fork()
    if not child:
        os._exit(0 if once() == os.getpid() else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
