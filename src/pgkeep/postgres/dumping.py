"""pg_dump, pg_dumpall and pg_restore, run so that no secret and no error is lost."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping, Sequence

from pgkeep.errors import PermissionMissing, PgkeepError, ProgramFailed, TableChanged
from pgkeep.postgres.address import Address, client_access
from pgkeep.postgres.memory_files import memory_file
from pgkeep.postgres.programs import Programs


def dump_schema(
    programs: Programs,
    address: Address,
    *,
    snapshot: str | None = None,
    lock_timeout_seconds: float = 30,
) -> bytes:
    """The schema as an uncompressed custom-format archive, as a snapshot shows it."""
    arguments = [
        "--format=custom",
        "--compress=0",
        "--schema-only",
        "--quote-all-identifiers",
        f"--lock-wait-timeout={round(lock_timeout_seconds * 1000)}",
    ]
    if snapshot is not None:
        arguments.append(f"--snapshot={snapshot}")
    return _run_connected(programs, "pg_dump", arguments, address)


def dump_roles(programs: Programs, address: Address) -> bytes:
    """All roles of the server as SQL, without passwords."""
    return _run_connected(
        programs,
        "pg_dumpall",
        ["--roles-only", "--no-role-passwords", "--quote-all-identifiers"],
        address,
    )


def script_from_archive(
    programs: Programs,
    archive: bytes,
    arguments: Sequence[str],
    *,
    use_list: str,
    for_major: int,
) -> bytes:
    """The SQL that pg_restore writes for the entries in `use_list`, for a server to understand."""
    script = _script(programs, archive, arguments, use_list)
    if for_major < 17:  # pg_restore 17 and newer set what older servers do not know
        head, setting, rest = script.partition(b"\nSET transaction_timeout = 0;\n")
        if setting and b"\nCREATE " not in head:
            return head + b"\n" + rest
    return script


def _script(programs: Programs, archive: bytes, arguments: Sequence[str], use_list: str) -> bytes:
    listed = use_list.encode("utf-8", "surrogateescape")
    with (
        memory_file(archive) as (archive_path, archive_fds),
        memory_file(listed) as (list_path, list_fds),
    ):
        return _run(
            [
                *(str(programs.path("pg_restore")), "--file=-", *arguments),
                *(f"--use-list={list_path}", archive_path),
            ],
            "pg_restore",
            pass_fds=(*archive_fds, *list_fds),
        )


def run_script(
    programs: Programs, address: Address, script: bytes, *, single: bool = False
) -> None:
    """Run SQL through psql, which stops at the first error; the error says where."""
    arguments = [
        "-X",
        "-q",
        "-w",
        "-v",
        "ON_ERROR_STOP=1",
        "-v",
        "VERBOSITY=verbose",
        "-o",
        "/dev/null",
    ]
    if single:
        arguments.append("--single-transaction")
    _run_connected(programs, "psql", [*arguments, "-f", "-"], address, stdin=script)


def _run_connected(
    programs: Programs,
    name: str,
    arguments: Sequence[str],
    address: Address,
    *,
    stdin: bytes | None = None,
) -> bytes:
    with client_access(address) as access:
        command = [str(programs.path(name)), *arguments, "-d", access.dbname]
        if name != "psql":
            command.append("--no-password")
        return _run(
            command, name, stdin=stdin, environment=access.environment, pass_fds=access.pass_fds
        )


def _run(
    command: Sequence[str],
    name: str,
    *,
    stdin: bytes | None = None,
    environment: Mapping[str, str] | None = None,
    pass_fds: tuple[int, ...] = (),
) -> bytes:
    done = subprocess.run(
        command,
        input=b"" if stdin is None else stdin,
        capture_output=True,
        env=environment,
        pass_fds=pass_fds,
        check=False,
        start_new_session=True,
    )
    if done.returncode != 0:
        raise _failure(name, done.returncode, done.stderr.decode("utf-8", "replace"))
    return done.stdout


def _failure(name: str, code: int, text: str) -> PgkeepError:
    """What went wrong, from the program's own words: the error, and the statement it belongs to."""
    lines = [line for line in text.splitlines() if line.strip()]
    at = next(
        (i for i, line in enumerate(lines) if re.search(r"(ERROR|FATAL):|error:", line)), None
    )
    if at is None:
        return ProgramFailed(f"{name} ended with exit code {code} and no word")
    message = re.sub(r"^.*?(ERROR|FATAL):\s+(?:[0-9A-Z]{5}: )?", "", lines[at])
    message = re.sub(rf"^(?:psql:\S+ )?{name}: error: ", "", message)
    around = " ".join(line.strip() for line in lines[at + 1 : at + 4])
    hint = f"{name} says: {around}"[:400] if around else ""
    if "permission denied" in message:
        return PermissionMissing(f"{name}: {message}", hint=hint or "Grant the right to this role.")
    if "lock timeout" in message or "could not obtain lock" in message:
        return TableChanged(
            f"{name}: {message}", hint="Somebody is altering a table; run the backup again later."
        )
    return ProgramFailed(f"{name}: {message}", hint=hint)
