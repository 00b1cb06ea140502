"""The steps of RESTORE.txt, performed as they are written there, without pgkeep.

The commands are taken out of the repository's own RESTORE.txt; only what it leaves to the reader
is filled in: the backup, the key file, the server, and names that must be this test's own. They
run in sh. age, zstd and ssh-keygen are the real programs wherever they are installed; a machine
without one gets a stand-in of a few lines over pyrage, zstandard and pgkeep's check of signatures.
psql, pg_restore and createdb are those that pgkeep itself would use.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from comparison import Picture, assert_same, databases, load_statements, take_picture
from conftest import Workbench
from keyrings import ThrowAwayKeyring
from pgkeep.demo import story
from pgkeep.postgres.programs import choose_client
from pgkeep.postgres.server import ScratchServer
from schemas import EDGE_DATABASES

RESTORED = "without_pgkeep_restored"

STAND_INS = {
    "age": """
import sys, pyrage
arguments = sys.argv[1:]
assert arguments[:2] == ["-d", "-i"], arguments
text = open(arguments[2], "rb").read()
if text.startswith(b"-----BEGIN"):
    identities = [pyrage.ssh.Identity.from_buffer(text)]
else:
    keys = [line for line in text.decode().splitlines() if line.startswith("AGE-SECRET-KEY-")]
    identities = [pyrage.x25519.Identity.from_str(key) for key in keys]
sealed = open(arguments[3], "rb").read() if arguments[3:] else sys.stdin.buffer.read()
sys.stdout.buffer.write(pyrage.decrypt(sealed, identities))
""",
    "zstd": """
import sys, zstandard
assert sys.argv[1:] in (["-d"], ["-dcq"]), sys.argv
with zstandard.ZstdDecompressor().stream_reader(
    sys.stdin.buffer, read_across_frames=True
) as stream:
    while piece := stream.read(1 << 20):
        sys.stdout.buffer.write(piece)
""",
    "ssh-keygen": """
import sys
from pgkeep.sealing import PublicSigner, verify
options = dict(zip(sys.argv[1::2], sys.argv[2::2]))
assert options["-Y"] == "verify" and options["-I"] == options["-n"] == "pgkeep", options
lines = open(options["-f"]).read().splitlines()
signers = [PublicSigner.parse(line[line.index("ssh-"):]) for line in lines if "ssh-" in line]
verify(sys.stdin.buffer.read(), open(options["-s"], "rb").read(), signers)
print('Good "pgkeep" signature')
""",
}


@dataclass
class Reader:
    """Somebody who has RESTORE.txt, a key, and the programs that it names."""

    server: ScratchServer
    folder: Path
    only_stand_ins: bool = False

    def perform(self, repository: Path, key: Path | None, **variables: str) -> str:
        """All the steps, to the end; what they said."""
        done = self.attempt(repository, key, **variables)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
        return done.stdout

    def attempt(
        self, repository: Path, key: Path | None, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        """The steps, up to the first that fails."""
        text = (repository / "RESTORE.txt").read_text()
        return subprocess.run(
            ["sh", "-e", "-c", self.script(text, repository, key)],
            cwd=repository,
            env={**self.environment(), **variables},
            capture_output=True,
            text=True,
            check=False,
        )

    def script(self, text: str, repository: Path, key: Path | None) -> str:
        """With a key file, or without one with the secret key that gpg has."""
        other = r"^gpg -d .*\n" if key else r"^age -d -i YOUR-KEY-FILE .*\n"
        commands = commands_in(text)
        choose = next(line for line in commands if line.startswith("ls "))
        chosen = self.output_of(choose, repository).split()[-1]
        server = f"export PGHOST=127.0.0.1 PGPORT={self.server.port} PGUSER=postgres"
        script = "\n".join(commands)
        for written, meant in (
            (r"^B=.*$", f"B={chosen}"),
            (other, ""),
            *([(r"YOUR-KEY-FILE", str(key))] if key else []),
            (r"^export PGHOST=.*$", server),
            (r"(?<=[ =])restored(?=\s)", RESTORED),
            # Others may be at it on this machine too.
            (r"/dev/shm/", f"{self.folder}/"),
        ):
            script, count = re.subn(written, meant.replace("\\", r"\\"), script, flags=re.MULTILINE)
            assert count, f"{written} is not in RESTORE.txt"
        return script

    def output_of(self, command: str, repository: Path) -> str:
        done = subprocess.run(
            ["sh", "-c", command],
            cwd=repository,
            env=self.environment(),
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout

    def environment(self) -> dict[str, str]:
        password_file = self.folder / "pgpass"
        password_file.touch(mode=0o600)
        password_file.write_text(f"127.0.0.1:*:*:*:{self.server.password}\n")
        programs = choose_client(17, need_tls=False).bin_dir
        path = [self.stand_ins(), programs, *os.environ["PATH"].split(os.pathsep)]
        return {
            "PATH": os.pathsep.join(map(str, path)),
            "HOME": str(self.folder),
            "PGPASSFILE": str(password_file),
            "PGSSLMODE": "disable",
            "LC_ALL": "C.UTF-8",
        }

    def stand_ins(self) -> Path:
        folder = self.folder / "stand-ins"
        folder.mkdir(exist_ok=True)
        for name, program in STAND_INS.items():
            if self.only_stand_ins or shutil.which(name) is None:
                (folder / f"{name}.py").write_text(program)
                (folder / name).write_text(
                    f'#!/bin/sh\nexec "{sys.executable}" "{folder}/{name}.py" "$@"\n'
                )
                (folder / name).chmod(0o755)
        return folder


def commands_in(text: str) -> list[str]:
    """The indented lines, and the command that ends a step's heading, without remarks."""
    commands = []
    for line in text.splitlines():
        if line.startswith("     "):
            commands.append(re.sub(r"\s{3,}\(.*\)$", "", line.removeprefix("     ")))
        elif found := re.match(r"\d\. .*:  (\S.*)$", line):
            commands.append(found[1])
    return commands


@pytest.fixture
def reader(server: ScratchServer, tmp_path: Path) -> Iterator[Reader]:
    folder = tmp_path / "reader"
    folder.mkdir()
    server.drop_database(RESTORED)
    yield Reader(server, folder)
    server.drop_database(RESTORED)


@pytest.fixture
def restored(server: ScratchServer) -> Callable[[], Picture]:
    return lambda: take_picture(server.url(RESTORED))


def test_the_steps_bring_back_the_shop(
    workbench: Workbench,
    server: ScratchServer,
    reader: Reader,
    restored: Callable[[], Picture],
) -> None:
    with databases(server, "without_pgkeep") as (source,):
        story.run_script(source, "shop.sql")
        workbench.init(source)
        workbench.pgkeep("backup", "shop")
        said = reader.perform(workbench.repository, workbench.identity)
        assert "all whole" in said
        assert 'Good "pgkeep" signature' in said
        assert_same(take_picture(source), restored())
    left = [path.name for path in reader.folder.iterdir()]
    assert "epoch.key" not in left
    assert "restore.sh" not in left


@pytest.mark.parametrize(
    "name", sorted(EDGE_DATABASES.keys() - {"enum hash partitions", "wide rows"})
)
def test_the_steps_bring_back_an_edge_database(
    workbench: Workbench,
    new_database: Callable[[], str],
    reader: Reader,
    restored: Callable[[], Picture],
    name: str,
) -> None:
    source = new_database()
    load_statements(source, EDGE_DATABASES[name])
    workbench.init(source)
    workbench.pgkeep("backup", "shop")
    reader.perform(workbench.repository, workbench.identity)
    assert_same(take_picture(source), restored())


def test_the_steps_bring_back_rows_partitioned_by_an_enums_hash(
    workbench: Workbench, new_database: Callable[[], str], reader: Reader, server: ScratchServer
) -> None:
    source = new_database()
    load_statements(source, EDGE_DATABASES["enum hash partitions"])
    workbench.init(source)
    workbench.pgkeep("backup", "shop")
    reader.perform(workbench.repository, workbench.identity)
    assert_same(
        take_picture(source, through_roots=True),
        take_picture(server.url(RESTORED), through_roots=True),
    )


def test_event_triggers_come_after_all_that_they_could_act_on(
    workbench: Workbench,
    new_database: Callable[[], str],
    reader: Reader,
    restored: Callable[[], Picture],
) -> None:
    source = new_database()
    load_statements(
        source,
        ("CREATE TABLE t AS SELECT 1 AS id", "CREATE MATERIALIZED VIEW v AS SELECT * FROM t",
         "COMMENT ON DATABASE " + source.rsplit("/", 1)[1].split("?")[0] + " IS 'it''s a shop'",
         "CREATE FUNCTION forbid() RETURNS event_trigger LANGUAGE plpgsql AS"
         " $$ BEGIN RAISE 'no'; END $$",
         "CREATE EVENT TRIGGER forbid_all ON ddl_command_start EXECUTE FUNCTION forbid()",
         "COMMENT ON EVENT TRIGGER forbid_all IS 'in the way'"),
    )  # fmt: skip
    workbench.init(source)
    workbench.pgkeep("backup", "shop")
    reader.perform(workbench.repository, workbench.identity)
    assert_same(take_picture(source), restored())


SMALL = (
    "CREATE TABLE small (id serial PRIMARY KEY, body text)",
    "INSERT INTO small (body) SELECT repeat('x', n) FROM generate_series(1, 1000) AS n",
)


def test_stand_ins_do_what_the_programs_do(
    workbench: Workbench,
    new_database: Callable[[], str],
    reader: Reader,
    restored: Callable[[], Picture],
) -> None:
    source = new_database()
    load_statements(source, SMALL)
    workbench.init(source)
    workbench.pgkeep("backup", "shop")
    reader.only_stand_ins = True
    reader.perform(workbench.repository, workbench.identity)
    assert_same(take_picture(source), restored())


def test_the_newest_of_several_backups_is_chosen_whatever_its_tier(
    workbench: Workbench,
    new_database: Callable[[], str],
    reader: Reader,
    restored: Callable[[], Picture],
) -> None:
    source = new_database()
    load_statements(source, SMALL)
    workbench.init(source)
    for tier, count in (("daily", 10), ("monthly", 20), ("daily", 30), ("manual", 40)):
        load_statements(source, (f"DELETE FROM small WHERE id <= {count}",))
        workbench.pgkeep("backup", "shop", "--tier", tier)
        time.sleep(1)  # a backup is named after the second in which it began
    reader.perform(workbench.repository, workbench.identity)
    assert restored().row_count == 960


def test_the_steps_make_missing_roles_if_told_to(
    workbench: Workbench,
    new_database: Callable[[], str],
    reader: Reader,
    server: ScratchServer,
    servers: Callable[[int], ScratchServer],
) -> None:
    source = new_database()
    role = 'gone "with" the server'
    quoted = '"gone ""with"" the server"'
    load_statements(
        source,
        (f"CREATE ROLE {quoted} NOLOGIN", *SMALL, f"ALTER TABLE small OWNER TO {quoted}"),
    )
    try:
        workbench.init(source)
        workbench.pgkeep("backup", "shop")
        other = servers(18)
        other.drop_database(RESTORED)
        elsewhere = Reader(other, reader.folder)
        elsewhere.perform(workbench.repository, workbench.identity, WITH_ROLES="1")
        picture = take_picture(other.url(RESTORED), dump_major=18)
        assert_same(take_picture(source, dump_major=18), picture)
        assert role.replace('"', '""') in picture.definitions
    finally:
        servers(18).drop_database(RESTORED)
        load_statements(servers(18).url(), (f"DROP ROLE IF EXISTS {quoted}",))
        load_statements(source, ("DROP TABLE small", f"DROP ROLE {quoted}"))


def test_any_damaged_object_is_named_and_none_gets_into_the_database(
    workbench: Workbench, new_database: Callable[[], str], reader: Reader, server: ScratchServer
) -> None:
    source = new_database()
    load_statements(source, SMALL)
    workbench.init(source)
    workbench.pgkeep("backup", "shop")
    objects = sorted(workbench.repository.glob("objects/*/*"))
    assert len(objects) >= 4  # rows, definitions, table of contents, restore script
    for damaged in objects:
        whole = damaged.read_bytes()
        damaged.chmod(0o600)
        damaged.write_bytes(whole[:-1])
        done = reader.attempt(workbench.repository, workbench.identity)
        assert f"objects/{damaged.parent.name}/{damaged.name}: FAILED" in done.stdout
        assert "all whole" not in done.stdout
        # What no step needs, such as pgkeep's table of contents, keeps none from its end.
        if done.returncode == 0:
            assert_same(take_picture(source), take_picture(server.url(RESTORED)))
        server.drop_database(RESTORED)
        damaged.write_bytes(whole)
    reader.perform(workbench.repository, workbench.identity)


def test_a_forged_manifest_stops_the_steps(
    workbench: Workbench, new_database: Callable[[], str], reader: Reader
) -> None:
    source = new_database()
    load_statements(source, SMALL)
    workbench.init(source)
    workbench.pgkeep("backup", "shop")
    manifest = next(workbench.repository.glob("shop/*/*/*/manifest.json"))
    manifest.chmod(0o600)
    manifest.write_bytes(manifest.read_bytes().replace(b'"rows":1000', b'"rows":1001'))
    done = reader.attempt(workbench.repository, workbench.identity)
    assert done.returncode != 0
    assert "all whole" not in done.stdout


def test_an_ssh_key_opens_a_backup_in_the_steps_and_in_pgkeep(
    workbench: Workbench,
    new_database: Callable[[], str],
    reader: Reader,
    restored: Callable[[], Picture],
    tmp_path: Path,
) -> None:
    key, public = ssh_key(tmp_path / "id_ed25519")
    source, target = new_database(), new_database()
    load_statements(source, SMALL)
    workbench.init(source, "shop", "--recipient", public)
    workbench.pgkeep("backup", "shop")
    reader.perform(workbench.repository, key)
    assert_same(take_picture(source), restored())
    workbench.pgkeep("restore", "shop", "--target", target, "--identity", str(key))
    assert_same(take_picture(source), take_picture(target))


def test_a_gpg_key_opens_a_backup_in_the_steps_and_in_pgkeep(
    workbench: Workbench,
    new_database: Callable[[], str],
    new_keyring: Callable[[], ThrowAwayKeyring],
    reader: Reader,
    restored: Callable[[], Picture],
) -> None:
    keyring = new_keyring()
    keyring.new_key("Admin <admin@projectx.example>")
    source, target = new_database(), new_database()
    load_statements(source, SMALL)
    recipient = ("--recipient", "gpg:admin@projectx.example", "--gpg-home", str(keyring.home))
    workbench.init(source, "shop", *recipient)
    workbench.monkeypatch.delenv("PGKEEP_IDENTITY")
    workbench.pgkeep("backup", "shop")
    assert "all whole" in reader.perform(workbench.repository, None, GNUPGHOME=str(keyring.home))
    assert_same(take_picture(source), restored())
    workbench.pgkeep("restore", "shop", "--target", target)
    assert_same(take_picture(source), take_picture(target))


def ssh_key(path: Path) -> tuple[Path, str]:
    key = Ed25519PrivateKey.generate()
    path.touch(mode=0o600)
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.OpenSSH,
            serialization.NoEncryption(),
        )
    )
    public = key.public_key().public_bytes(
        serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    )
    return path, public.decode()


def test_an_identity_with_a_passphrase_opens_a_backup(
    workbench: Workbench, new_database: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = new_database(), new_database()
    load_statements(source, SMALL)
    monkeypatch.setenv("PGKEEP_PASSPHRASE", "correct horse")
    workbench.init(source, "shop", "--passphrase")
    assert workbench.identity.read_bytes().startswith(b"age-encryption.org/v1\n-> scrypt ")
    monkeypatch.delenv("PGKEEP_PASSPHRASE")
    workbench.pgkeep("backup", "shop")  # asks for nothing
    restore = ("restore", "shop", "--target", target)
    assert "PGKEEP_PASSPHRASE" in workbench.pgkeep(*restore, expect=1).err
    monkeypatch.setenv("PGKEEP_PASSPHRASE", "wrong horse")
    workbench.pgkeep(*restore, expect=1)
    monkeypatch.setenv("PGKEEP_PASSPHRASE", "correct horse")
    workbench.pgkeep(*restore)
    assert_same(take_picture(source), take_picture(target))
