"""Files of Supabase Storage are kept beside the database, changed ones only, and come back."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from conftest import Workbench
from pgkeep.errors import ConfigurationError
from pgkeep.platforms.file_services import RestService, S3Service
from receivers import free_port
from second_factors import Person
from supabase_server import ProjectServer, Version
from supabase_storage import KEY, Storage, supabase_storage

NewProject = Callable[[Version], ProjectServer]
SEED = 20260115


def some_bytes(number: int) -> bytes:
    return random.Random(number).randbytes(number)


@pytest.fixture
def storage(new_project: NewProject) -> Iterator[Storage]:
    """A project with two buckets and files of all sizes."""
    project = new_project("older")
    project.run(
        "INSERT INTO storage.buckets (id, name) VALUES ('avatars', 'avatars'), ('docs', 'docs');"
        "CREATE TABLE public.notes (id int PRIMARY KEY)"
    )
    with supabase_storage(project) as storage:
        for number in (0, 1, 1000, 300_000):
            storage.put("avatars", f"user {number}/bild ä.png", some_bytes(number))
        storage.put("docs", "twice.pdf", some_bytes(1000), "application/pdf")
        storage.put("docs", "large.bin", some_bytes(9_000_000))
        project.run(
            "UPDATE storage.objects SET owner_id = 'u1', user_metadata = '{\"alt\": \"me\"}',"
            " created_at = '2020-02-02' WHERE name = 'twice.pdf'"
        )
        yield storage


@pytest.fixture
def bench(workbench: Workbench, storage: Storage) -> Workbench:
    workbench.init(storage.project.url)
    workbench.monkeypatch.setenv("STORAGE_KEY", KEY)
    with workbench.config.open("a") as config:
        config.write(
            f'\n[databases.shop.files]\nurl = "{storage.url}"\nkey = {{ env = "STORAGE_KEY" }}\n'
        )
    return workbench


def backed_up(bench: Workbench, *options: str, expect: int = 0) -> dict[str, Any]:
    document = bench.pgkeep("backup", "shop", "--json", *options, expect=expect).document
    assert isinstance(document, dict)
    return document


def in_folder(bench: Workbench, *patterns: str, expect: int = 0) -> dict[str, bytes]:
    folder = bench.folder / f"files {len(list(bench.folder.iterdir()))}"
    bench.pgkeep("files", "shop", *patterns, "--to-folder", str(folder), expect=expect)
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def reads(storage: Storage) -> list[str]:
    found = [path for method, path, _ in storage.requests if method == "GET"]
    storage.requests.clear()
    return found


def test_files_are_kept_and_come_back_byte_by_byte(bench: Workbench, storage: Storage) -> None:
    document = backed_up(bench)
    assert document["files"] == {"files": 6, "bytes": 9_302_001}
    found = in_folder(bench)
    assert found == {
        "avatars/user 0/bild ä.png": b"",
        "avatars/user 1/bild ä.png": some_bytes(1),
        "avatars/user 1000/bild ä.png": some_bytes(1000),
        "avatars/user 300000/bild ä.png": some_bytes(300_000),
        "docs/large.bin": some_bytes(9_000_000),
        "docs/twice.pdf": some_bytes(1000),
    }
    assert set(in_folder(bench, "docs/t*")) == {"docs/twice.pdf"}
    text = bench.pgkeep("show", "shop").out
    assert "docs: 2 files" in text
    for path in bench.repository.rglob("*"):
        assert not path.is_file() or some_bytes(1000) not in path.read_bytes()


def test_only_what_changed_is_read_again(bench: Workbench, storage: Storage) -> None:
    backed_up(bench)
    assert len(reads(storage)) == 6
    stored = sum(one.stat().st_size for one in (bench.repository / "objects").rglob("*"))
    backed_up(bench)
    assert reads(storage) == []
    storage.put("docs", "twice.pdf", some_bytes(2000))
    backed_up(bench)
    assert [path.rpartition("/")[2] for path in reads(storage)] == ["twice.pdf"]
    grown = sum(one.stat().st_size for one in (bench.repository / "objects").rglob("*")) - stored
    assert grown < 1_000_000
    assert in_folder(bench, "docs/twice.pdf") == {"docs/twice.pdf": some_bytes(2000)}


def test_the_same_bytes_under_another_name_are_stored_once(
    bench: Workbench, storage: Storage
) -> None:
    backed_up(bench)
    before = {one for one in (bench.repository / "objects").rglob("*") if one.is_file()}
    storage.put("docs", "again.png", some_bytes(300_000))
    backed_up(bench)
    after = {one for one in (bench.repository / "objects").rglob("*") if one.is_file()}
    assert sum(one.stat().st_size for one in after - before) < 100_000
    assert in_folder(bench, "docs/again.png") == {"docs/again.png": some_bytes(300_000)}


def test_a_read_that_is_cut_off_goes_on_where_it_was(
    bench: Workbench, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)
    storage.cut_after = 5_000_000
    storage.answers = [429, 503]
    backed_up(bench)
    ranges = [wanted for _, _, wanted in storage.requests if wanted]
    assert ranges == ["bytes=5000000-"]
    assert in_folder(bench, "docs/large.bin") == {"docs/large.bin": some_bytes(9_000_000)}


def test_bytes_that_are_gone_are_told_and_the_rest_is_kept(
    bench: Workbench, storage: Storage
) -> None:
    gone = next(iter(storage.bytes_of))
    del storage.bytes_of[gone]
    document = backed_up(bench, expect=3)
    assert document["files"]["files"] == 5
    (missing,) = [one for one in document["not_kept"] if "file avatars" in one["what"]]
    assert "not there" in missing["why"]
    assert "file avatars/user 0/bild" in bench.pgkeep("show", "shop").out


def test_a_file_that_was_replaced_since_the_snapshot_is_kept_as_it_is_now(
    bench: Workbench, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pgkeep.backup import backup

    real = backup._keep_files

    def after_a_change(*arguments: Any) -> Any:
        storage.put("docs", "large.bin", some_bytes(5_000_000))
        storage.project.run_as_admin(
            "SET storage.allow_delete_query = 'true';"
            "DELETE FROM storage.objects WHERE name LIKE 'user 1/%'"
        )
        return real(*arguments)

    monkeypatch.setattr(backup, "_keep_files", after_a_change)
    document = backed_up(bench, expect=3)
    told = {one["what"]: one["why"] for one in document["not_kept"]}
    assert "the newer one is kept" in told["file docs/large.bin as it was at the snapshot"]
    assert told["file avatars/user 1/bild ä.png"] == "it was removed meanwhile"
    assert in_folder(bench, "docs/large.bin") == {"docs/large.bin": some_bytes(5_000_000)}


@pytest.mark.parametrize("wrong", ["key", "server"])
def test_a_storage_that_gives_nothing_holds_nothing_up(
    bench: Workbench, storage: Storage, monkeypatch: pytest.MonkeyPatch, wrong: str
) -> None:
    """The database is kept all the same, as are files that have not changed."""
    for service in (RestService, S3Service):
        defaults = service.__init__.__kwdefaults__
        assert defaults is not None
        monkeypatch.setitem(defaults, "sleep", lambda _: None)
    backed_up(bench)
    for number in range(30):
        storage.put("docs", f"new {number}", b"x" * (number + 1))
    if wrong == "key":
        monkeypatch.setenv("STORAGE_KEY", "wrong")
    else:
        text = bench.config.read_text()
        bench.config.write_text(text.replace(storage.url, f"http://127.0.0.1:{free_port()}"))
    storage.requests.clear()
    document = backed_up(bench, expect=3)
    assert document["files"]["files"] == 6
    assert len(storage.requests) <= 16, "a wrong key is not tried again and again"
    assert any("more files" in one["what"] for one in document["not_kept"])
    assert "wrong" not in str(document["not_kept"])


def test_files_go_into_another_project_with_their_owners(
    bench: Workbench, storage: Storage, new_project: NewProject
) -> None:
    backed_up(bench)
    target = new_project("newer")
    bench.monkeypatch.setenv("TARGET_URL", target.url)
    out = bench.pgkeep("restore", "shop", "--target", "env:TARGET_URL").out
    assert "pgkeep files DB --to-project puts them there" in out
    with supabase_storage(target) as there:
        bench.pgkeep(
            "files", "shop", "--to-project", there.url, "--key", "env:STORAGE_KEY", "--target",
            "env:TARGET_URL",
        )  # fmt: skip
        for number in (0, 1, 1000, 300_000):
            found = there.find("avatars", f"user {number}/bild ä.png")
            assert found is not None
            assert found[0] == some_bytes(number)
        pdf = there.find("docs", "twice.pdf")
        assert pdf is not None
        assert pdf[2] == "application/pdf"
    row = target.ask(
        "SELECT owner_id, user_metadata ->> 'alt', created_at::date::text FROM storage.objects"
        " WHERE name = 'twice.pdf'"
    )
    assert row == [("u1", "me", "2020-02-02")]


def test_a_file_that_the_project_refuses_is_told(
    bench: Workbench, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)
    backed_up(bench)
    storage.file_size_limit = 1_000_000
    outcome = bench.pgkeep(
        "files", "shop", "--to-project", storage.url, "--key", "env:STORAGE_KEY", expect=1
    )
    assert "failed   docs/large.bin: the storage answers 413" in outcome.out
    assert "restored 5 files" in outcome.out


def test_names_that_lead_elsewhere_or_clash_stay_within_the_folder(
    bench: Workbench, storage: Storage
) -> None:
    names = ["../../etc/passwd", "a", "a/b", "A", "..", "x/../y", "con.txt ", f"{'n' * 300}.txt"]
    for at, name in enumerate(names):
        storage.put("docs", name, some_bytes(100 + at))
    backed_up(bench)
    found = in_folder(bench, "docs/*")
    assert len(found) == len(names) + 2
    assert {len(data) for data in found.values()} >= {100 + at for at in range(len(names))}
    assert all(path.startswith("docs/") and ".." not in path.split("/") for path in found)
    assert len({path.lower() for path in found}) == len(found)
    assert not (bench.folder / "etc").exists()


def test_files_leave_only_with_a_second_factor_where_one_is_enrolled(
    bench: Workbench, storage: Storage
) -> None:
    backed_up(bench)
    person = Person(bench)
    person.enroll_app()
    arguments = ("files", "shop", "--to-folder", str(bench.folder / "out"))
    assert "[E090] export files of 'shop'" in person.run(*arguments, expect=1).err
    assert not (bench.folder / "out").exists()
    person.run("files", "shop")
    person.run(*arguments, code=person.code())
    storage.requests.clear()
    put = ("files", "shop", "--to-project", storage.url, "--key", "env:STORAGE_KEY")
    assert "[E090] put files into a project of 'shop'" in person.run(*put, expect=1).err
    assert storage.requests == []
    bench.monkeypatch.setenv("TARGET_URL", "postgresql://localhost:1/x")
    resume = ("restore", "shop", "--target", "env:TARGET_URL", "--resume-jobs")
    assert "[E090] resume jobs of 'shop'" in person.run(*resume, expect=1).err


def test_damage_is_found_by_verify_and_by_a_drill(bench: Workbench, storage: Storage) -> None:
    backed_up(bench)
    drill = bench.pgkeep("drill", "shop", "--json", expect=None).document
    assert isinstance(drill, dict)
    assert ("files", True, "6 of 6 files opened, equal") in [
        (one["name"], one["passed"], one["found"]) for one in drill["checks"]
    ]
    large = max((bench.repository / "objects").rglob("*"), key=lambda one: one.stat().st_size)
    data = bytearray(large.read_bytes())
    data[len(data) // 2] ^= 1
    large.write_bytes(data)
    bench.pgkeep("verify", "--read", "all", "--no-heal", expect=1)
    outcome = bench.pgkeep("files", "shop", "--to-folder", str(bench.folder / "x"), expect=1)
    assert "failed   docs/large.bin" in outcome.out
    assert "restored 5 files" in outcome.out
    drill = bench.pgkeep("drill", "shop", "--json", expect=1).document
    assert isinstance(drill, dict)
    assert drill["outcome"] == "failed"


def test_pruning_keeps_what_backups_need_and_drops_the_rest(
    bench: Workbench, storage: Storage
) -> None:
    backed_up(bench)
    backed_up(bench)
    bench.pgkeep("prune")
    assert len(in_folder(bench)) == 6


def test_no_files_means_none(bench: Workbench, storage: Storage) -> None:
    document = backed_up(bench, "--no-files")
    assert document["files"] is None
    assert reads(storage) == []
    assert "keeps no files" in bench.pgkeep("files", "shop", expect=2).err


def test_by_s3_it_is_the_same(bench: Workbench, storage: Storage) -> None:
    text = bench.config.read_text()
    keys = 'access_key_id = "id"\nsecret_access_key = { env = "STORAGE_KEY" }'
    bench.config.write_text(text.replace('key = { env = "STORAGE_KEY" }', keys))
    gone = next(iter(storage.bytes_of))
    del storage.bytes_of[gone]
    document = backed_up(bench, expect=3)
    assert document["files"]["files"] == 5
    assert any("/storage/v1/s3/docs/large.bin" in path for _, path, _ in storage.requests)
    assert in_folder(bench, "docs/large.bin") == {"docs/large.bin": some_bytes(9_000_000)}


def test_a_key_goes_nowhere_unencrypted() -> None:
    with pytest.raises(ConfigurationError, match="would go there readable"):
        RestService("http://ref.supabase.co", KEY)


def test_a_folder_that_holds_something_is_left(bench: Workbench, storage: Storage) -> None:
    backed_up(bench)
    folder = Path(bench.folder / "full")
    folder.mkdir()
    (folder / "mine").touch()
    outcome = bench.pgkeep("files", "shop", "--to-folder", str(folder), expect=2)
    assert "is not empty" in outcome.err
    assert [one.name for one in folder.iterdir()] == ["mine"]
