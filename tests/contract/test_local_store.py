"""The store in a folder: the contract, and what only a folder can show: rights, order, disks."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from pgkeep.errors import (
    ObjectMissing,
    RepositoryLocked,
    StoreAccessDenied,
    StoreError,
    StoreFull,
)
from pgkeep.stores import LocalStore, Store, StoredFile
from pgkeep.testing import StoreContract

NOBODY = 65534

HOLDER = """
import sys, pathlib
from pgkeep.stores import LocalStore
store = LocalStore(pathlib.Path(sys.argv[1]))
with store.exclusive("a backup elsewhere"):
    print("locked", flush=True)
    sys.stdin.read()
"""


class TestLocalStore(StoreContract):
    @pytest.fixture
    def store(self, tmp_path: Path) -> Store:
        return LocalStore(tmp_path / "new" / "repository")

    def another(self, store: Store) -> Store:
        return LocalStore(Path(store.url.removeprefix("file://")))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "repository"


@pytest.fixture
def store(root: Path) -> LocalStore:
    return LocalStore(root)


def names(root: Path) -> list[str]:
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())


# --- privacy --------------------------------------------------------------------------------


@pytest.mark.parametrize("mask", [0, 0o002, 0o022, 0o077])
def test_files_are_0600_and_folders_0700_whatever_the_umask(root: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        store = LocalStore(root)
        store.put("objects/ab/c", b"x")
        with store.exclusive("test"):
            store.put("top", b"y")
    finally:
        os.umask(before)
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in [root, *root.rglob("*")]}
    assert {mode for path, mode in modes.items() if path.is_dir()} == {0o700}
    assert {mode for path, mode in modes.items() if path.is_file()} == {0o600}
    assert len(modes) == 7


@pytest.mark.parametrize("name", ["tmp/a", "tmp", "lock", "lock/a"])
def test_its_own_names_are_refused(store: LocalStore, name: str) -> None:
    with pytest.raises(StoreError, match="not a name"):
        store.put(name, b"x")


# --- durability -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Step:
    """What was done to which path."""

    what: str
    path: Path


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[Step]:
    """Every mkdir, write, fsync and rename from now on, in order."""
    seen: list[Step] = []
    mkdir, write, fsync, rename = os.mkdir, os.write, os.fsync, os.rename

    def path_of(handle: int) -> Path:
        return Path(f"/proc/self/fd/{handle}").readlink()

    def seen_mkdir(path: str, mode: int = 0o777) -> None:
        mkdir(path, mode)
        seen.append(Step("mkdir", Path(path)))

    def seen_write(handle: int, data: bytes) -> int:
        seen.append(Step("write", path_of(handle)))
        return write(handle, data)

    def seen_fsync(handle: int) -> None:
        seen.append(Step("fsync", path_of(handle)))
        fsync(handle)

    def seen_rename(source: str, target: str) -> None:
        seen.append(Step("rename", Path(target)))
        rename(source, target)

    monkeypatch.setattr(os, "mkdir", seen_mkdir)
    monkeypatch.setattr(os, "write", seen_write)
    monkeypatch.setattr(os, "fsync", seen_fsync)
    monkeypatch.setattr(os, "rename", seen_rename)
    return seen


def test_all_is_on_disk_before_a_name_appears_and_the_name_before_put_returns(
    tmp_path: Path, steps: list[Step]
) -> None:
    root = tmp_path / "new" / "repository"
    LocalStore(root).put("objects/ab/c", b"x" * 100)

    at = steps.index(Step("rename", root / "objects/ab/c"))
    before, after = steps[:at], steps[at + 1 :]
    written = [step.path for step in before if step.what == "write"]
    assert len(set(written)) == 1
    assert before.index(Step("fsync", written[0])) > before.index(Step("write", written[0]))
    made = [step for step in before if step.what == "mkdir"]
    assert {step.path for step in made} == {
        tmp_path / "new", root, root / "tmp", root / "objects", root / "objects/ab",
    }  # fmt: skip
    for step in made:
        assert Step("fsync", step.path.parent) in before[before.index(step) :]
    assert after == [Step("fsync", root / "objects/ab")]


def test_a_second_put_makes_and_syncs_no_more_than_it_must(
    root: Path, store: LocalStore, steps: list[Step]
) -> None:
    store.put("objects/ab/c", b"x")
    steps.clear()
    store.put("objects/ab/d", b"x")
    assert [step.what for step in steps] == ["write", "fsync", "rename", "fsync"]


# --- what is left of interrupted writes -------------------------------------------------------


def test_unfinished_files_are_never_listed(root: Path, store: LocalStore) -> None:
    store.put("a/b", b"x")
    (root / "tmp" / "unfinished").write_bytes(b"half")
    assert list(store.list("")) == [StoredFile("a/b", 1)]
    assert list(store.folders("")) == ["a"]
    with store.exclusive("test"):
        assert [file.name for file in store.list("")] == ["a/b"]


def test_leftovers_are_cleared_by_whoever_has_the_lock_and_nobody_else(
    root: Path, store: LocalStore
) -> None:
    store.put("a", b"x")
    (root / "tmp" / "unfinished").write_bytes(b"half")
    store.put("b", b"y")
    assert "tmp/unfinished" in names(root)
    with LocalStore(root).exclusive("first"):
        assert names(root) == ["a", "b", "lock"]
        (root / "tmp" / "in-work").write_bytes(b"half")
        with pytest.raises(RepositoryLocked), store.exclusive("second"):
            pass
        assert names(root) == ["a", "b", "lock", "tmp/in-work"]


def test_what_another_writes_without_the_lock_is_not_cleared(root: Path, store: LocalStore) -> None:
    """Capture keeps its segments while a backup has the lock."""
    ended = threading.Event()

    def lock_again_and_again() -> None:
        while not ended.is_set():
            with LocalStore(root).exclusive("backup"):
                pass

    with ThreadPoolExecutor(1) as executor:
        locking = executor.submit(lock_again_and_again)
        try:
            for number in range(300):
                store.put(f"journal/{number}", b"x" * 100_000)
        finally:
            ended.set()
        locking.result()
    assert len(list(store.list("journal/"))) == 300
    assert list((root / "tmp").iterdir()) == []


def test_a_failed_put_leaves_the_old_state(
    root: Path, store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put("a", b"old")

    def broken(handle: int) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", broken)
        with pytest.raises(StoreError, match=r"cannot write 'a' to file://.*: input/output error"):
            store.put("a", b"new")
    assert store.get("a") == b"old"
    assert names(root) == ["a"]


# --- the lock -------------------------------------------------------------------------------


@contextmanager
def holder(root: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that has the lock."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(root)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "locked\n"
        yield process
        process.kill()


def test_another_process_is_kept_out_and_told_who_it_is(root: Path, store: LocalStore) -> None:
    with holder(root) as process:
        with (
            pytest.raises(RepositoryLocked, match=f"a backup elsewhere .pid {process.pid} on"),
            store.exclusive("test"),
        ):
            pass
        process.send_signal(signal.SIGKILL)
        process.wait(10)
        with store.exclusive("test"):
            store.put("a", b"x")


@pytest.mark.parametrize("note", [b"", b"{", b"null", b"[]", b"{}", b"\xff"])
def test_a_damaged_note_in_the_lock_does_not_matter(
    root: Path, store: LocalStore, note: bytes
) -> None:
    with store.exclusive("first"):
        (root / "lock").write_bytes(note)
        with (
            pytest.raises(RepositoryLocked, match=r"is locked by another process$"),
            LocalStore(root).exclusive("second"),
        ):
            pass


# --- disks and rights -----------------------------------------------------------------------


@contextmanager
def small_disk(size_bytes: int) -> Iterator[Path]:
    """A folder with little room: a tmpfs where we may mount one, a limit on file size elsewhere."""
    folder = Path(tempfile.mkdtemp(prefix="pgkeep-small-"))
    options = f"size={size_bytes}"
    mounted = (
        os.geteuid() == 0
        and not subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True
        ).returncode
    )
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        if not mounted:
            resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
        yield folder
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        if mounted:
            subprocess.run(["umount", str(folder)], check=True)
        shutil.rmtree(folder)


def test_a_full_disk_is_named_and_leaves_nothing_half_written() -> None:
    with small_disk(1 << 20) as folder:
        store = LocalStore(folder / "repository")
        store.put("a", b"old")
        with pytest.raises(StoreFull, match="cannot write 'b' to file://") as caught:
            store.put("b", bytes(2 << 20))
        with pytest.raises(StoreFull):
            store.put("a", bytes(2 << 20))
        assert names(folder / "repository") == ["a"]
        assert store.get("a") == b"old"
        store.put("b", b"small enough")
    assert caught.value.hint.startswith("Free some space")


def test_a_file_that_may_not_grow_is_a_full_disk(root: Path, store: LocalStore) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, hard))
    try:
        with pytest.raises(StoreFull):
            store.put("a", bytes(1 << 17))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert names(root) == []


@contextmanager
def as_a_normal_user() -> Iterator[None]:
    """Without root's power to do everything."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def users_folder() -> Iterator[Path]:
    """A repository of the user of `as_a_normal_user`, with one file."""
    folder = Path(tempfile.mkdtemp(prefix="pgkeep-user-"))
    if os.geteuid() == 0:
        os.chown(folder, NOBODY, -1)
    with as_a_normal_user():
        LocalStore(folder / "repository").put("a/b", b"x")
    yield folder / "repository"
    for path in [folder, *folder.rglob("*")]:
        if path.is_dir():
            path.chmod(0o700)
    shutil.rmtree(folder)


def test_a_folder_without_rights_is_named(users_folder: Path) -> None:
    store = LocalStore(users_folder)
    (users_folder / "tmp").chmod(0o500)
    (users_folder / "a" / "b").chmod(0)
    (users_folder / "a").chmod(0o500)
    users_folder.chmod(0o500)
    with as_a_normal_user():
        with pytest.raises(StoreAccessDenied, match=r"cannot write 'a/c'.*permission denied"):
            store.put("a/c", b"x")
        with pytest.raises(StoreAccessDenied, match=r"cannot read 'a/b'.*permission denied"):
            store.get("a/b")
        with pytest.raises(StoreAccessDenied, match="cannot delete 'a/b'"):
            store.delete("a/b")
        with pytest.raises(StoreAccessDenied, match="cannot lock"), store.exclusive("test"):
            pass
        (users_folder / "a").chmod(0)
        with pytest.raises(StoreAccessDenied, match="cannot list ''"):
            list(store.list(""))
        with pytest.raises(StoreAccessDenied, match="cannot look at 'a/b'"):
            store.size("a/b")


def test_a_file_in_the_way_of_a_folder_is_an_error_of_its_own(
    root: Path, store: LocalStore
) -> None:
    store.put("a", b"file")
    with pytest.raises(StoreError, match="cannot write 'a/b'") as caught:
        store.put("a/b", b"x")
    assert not isinstance(caught.value, ObjectMissing)
    assert list(store.list("a/")) == []
    assert list(store.folders("a/")) == []
    assert names(root) == ["a"]


def test_a_folder_in_the_way_of_a_file_is_an_error_of_its_own(
    root: Path, store: LocalStore
) -> None:
    store.put("a/b", b"x")
    with pytest.raises(StoreError, match="cannot write 'a'") as caught:
        store.put("a", b"file")
    assert not isinstance(caught.value, ObjectMissing)
    assert names(root) == ["a/b"]


def test_a_file_in_the_place_of_tmp_is_an_error_of_ours(root: Path, store: LocalStore) -> None:
    root.mkdir()
    (root / "tmp").write_bytes(b"")
    with pytest.raises(StoreError, match="cannot clear"), store.exclusive("test"):
        pass
