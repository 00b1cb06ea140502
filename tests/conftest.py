"""Real servers, one of each version for the whole run, and a database of its own for each test."""

from __future__ import annotations

import importlib.util
import itertools
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from keyrings import ThrowAwayKeyring
from object_servers import (
    EnforcingS3Server,
    GcsServer,
    S3Server,
    enforcing_moto_server,
    gcs_server,
    moto_server,
    rclone_server,
)
from pgkeep.cli.main import run
from pgkeep.postgres.programs import Programs, choose_server, find_programs
from pgkeep.postgres.server import ScratchServer
from supabase_server import ProjectServer, Version, installation, start_project, with_application

pytest.register_assert_rewrite("pgkeep.testing")

_NUMBERS = itertools.count(1)

_LONGEST_NAME = 20


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Fresh keys and seeds stay out of the tests' names, so that every worker has the same ones."""
    is_long = isinstance(val, str) and len(val) > _LONGEST_NAME
    return argname if is_long or isinstance(val, bytes) or argname == "seed" else None


WHEELS = (17, 18)
"""The versions that always run; 16 and the system's own are added where there is one."""


def available_majors() -> list[int]:
    """The server versions that this machine can run: the wheels' and the system's."""
    system = {one.major for one in find_programs() if one.origin == "system" and one.has_server}
    extra = {one.major for one in find_programs(_TEST_ONLY) if one.origin == "configured"}
    return sorted({*WHEELS, *extra, *(major for major in system if major >= 14)})


def _wheel_for_tests() -> tuple[Path, ...]:
    """PostgreSQL 16 from a wheel that only the tests use, where there is one for this Python."""
    spec = importlib.util.find_spec("pgserver")
    places = (spec.submodule_search_locations if spec else None) or ()
    return tuple(Path(place) / "pginstall" / "bin" for place in places)


_TEST_ONLY = _wheel_for_tests()


@pytest.fixture(scope="session")
def servers() -> Iterator[Callable[[int], ScratchServer]]:
    """A function from a major version to a running server, started when first asked for."""
    running: dict[int, ScratchServer] = {}

    def server(major: int) -> ScratchServer:
        if major not in running:
            running[major] = ScratchServer.start(choose_server(major, _TEST_ONLY))
        return running[major]

    yield server
    for one in running.values():
        one.stop()


@pytest.fixture
def server(servers: Callable[[int], ScratchServer]) -> ScratchServer:
    """The server that most tests use."""
    return servers(17)


@pytest.fixture
def new_database(server: ScratchServer) -> Iterator[Callable[[], str]]:
    """A function that makes an empty database on `server` and returns its URL."""
    names: list[str] = []

    def make() -> str:
        names.append(f"test_{next(_NUMBERS)}")
        server.create_database(names[-1])
        return server.url(names[-1])

    yield make
    for name in names:
        server.drop_database(name)


@pytest.fixture(scope="session")
def rclone() -> Iterator[S3Server]:
    """A server of S3 that checks signatures and checksums."""
    with rclone_server() as server:
        yield server


@pytest.fixture(scope="session")
def moto() -> Iterator[S3Server]:
    """A server of S3 with versions, object lock, rules and policies."""
    with moto_server() as server:
        yield server


@pytest.fixture(scope="session")
def enforcing_s3() -> Iterator[EnforcingS3Server]:
    """A server of S3 that lets each user do only what their policy allows."""
    with enforcing_moto_server() as server:
        yield server


@pytest.fixture(scope="session")
def gcs() -> Iterator[GcsServer]:
    """A server of Google Cloud Storage."""
    with gcs_server() as server:
        yield server


@pytest.fixture(scope="session")
def supabase_programs() -> Iterator[Programs]:
    """PostgreSQL with stand-ins for the extensions of Supabase."""
    with installation() as programs:
        yield programs


@pytest.fixture
def new_project(supabase_programs: Programs) -> Iterator[Callable[[Version], ProjectServer]]:
    """A function that makes a fresh project of Supabase's, with older or newer managed schemas."""
    made: list[ProjectServer] = []

    def make(version: Version) -> ProjectServer:
        made.append(start_project(supabase_programs, version))
        return made[-1]

    yield make
    for project in made:
        project.stop()


@pytest.fixture
def sample_project(new_project: Callable[[Version], ProjectServer]) -> ProjectServer:
    """An older project with a user's application in it."""
    return with_application(new_project("older"))


@pytest.fixture
def new_keyring() -> Iterator[Callable[[], ThrowAwayKeyring]]:
    """A function that makes an empty keyring of gpg."""
    made: list[ThrowAwayKeyring] = []

    def make() -> ThrowAwayKeyring:
        made.append(ThrowAwayKeyring.make())
        return made[-1]

    yield make
    for keyring in made:
        keyring.remove()


@dataclass(slots=True)
class Outcome:
    """What a command answered."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> object:
        return json.loads(self.out)


@dataclass(slots=True)
class Workbench:
    """A configuration, keys and a repository of a test's own, and the command line in process."""

    folder: Path
    capture: pytest.CaptureFixture[str]
    monkeypatch: pytest.MonkeyPatch
    _databases: dict[str, str] = field(default_factory=dict)

    @property
    def config(self) -> Path:
        return self.folder / "pgkeep.toml"

    @property
    def identity(self) -> Path:
        return self.folder / "pgkeep-identity.txt"

    @property
    def repository(self) -> Path:
        return self.folder / "backups"

    @property
    def state(self) -> Path:
        return self.folder / "state"

    def init(self, url: str, database: str = "shop", *options: str) -> Outcome:
        """Run `pgkeep init` for a database at `url`; the identity is used from then on."""
        self.monkeypatch.setenv("SHOP_DATABASE_URL", url)
        self.monkeypatch.setenv("PGKEEP_IDENTITY", str(self.identity))
        return self.pgkeep(
            "init", database, "--url-env", "SHOP_DATABASE_URL",
            "--state-dir", str(self.state), "--repository", self.repository.as_uri(), *options,
        )  # fmt: skip

    def pgkeep(self, *arguments: str, expect: int | None = 0) -> Outcome:
        """Run a command; its exit code must be `expect` unless that is None."""
        self.capture.readouterr()
        code = run([*arguments, "--config", str(self.config)])
        captured = self.capture.readouterr()
        outcome = Outcome(int(code), captured.out, captured.err)
        if expect is not None:
            assert outcome.code == expect, f"{arguments}: {outcome}"
        return outcome


@pytest.fixture
def workbench(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Workbench:
    for name in [name for name in os.environ if name.startswith(("PGKEEP_", "PG"))]:
        monkeypatch.delenv(name)
    return Workbench(tmp_path, capsys, monkeypatch)
