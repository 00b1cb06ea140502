"""Whoever is at a terminal is asked for a second factor, and may mistype."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from comparison import load_statements
from conftest import Workbench
from failures import SMALL_SHOP
from hardware_keys import HardwareKey
from pgkeep.sealing import totp
from terminals import Terminal, at_a_terminal


@pytest.fixture
def bench(workbench: Workbench, new_database: Callable[[], str]) -> Workbench:
    url = new_database()
    load_statements(url, SMALL_SHOP)
    workbench.init(url)
    workbench.pgkeep("backup", "shop")
    return workbench


class App:
    """An authenticator app that knows which codes it has shown."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self._last = 0

    def code(self) -> str:
        """Of now; of the next period if that of now was used."""
        self._last = max(self._last + 1, totp.counter_at(datetime.now(UTC)))
        return totp.code_for(self._secret, self._last)

    def wrong_code(self) -> str:
        now = totp.counter_at(datetime.now(UTC))
        right = {totp.code_for(self._secret, now + step) for step in range(-3, 10)}
        return next(code for code in map("{:06}".format, range(100)) if code not in right)


def enrolled(bench: Workbench) -> tuple[App, list[str]]:
    """An app, enrolled at a terminal with a slip of the finger; and the recovery codes."""
    arguments = ("factor", "enroll", "phone", "--config", str(bench.config))
    with at_a_terminal(*arguments, environment=os.environ) as terminal:
        terminal.wait_for("secret for the app: ")
        secret = terminal.wait_for("\n").strip()
        assert f"secret={secret}&" in terminal.wait_for("The code that phone shows: ")
        app = App(totp.parse_secret(secret))
        terminal.type(app.wrong_code())
        terminal.wait_for("this code is wrong; 4 more")
        terminal.wait_for("The code that phone shows: ")
        terminal.type(app.code())
        assert terminal.end() == 0, terminal.shown
        codes = re.findall(r"^  ((?:[a-z0-9]{4}-){3}[a-z0-9]{4})$", terminal.shown, re.MULTILINE)
    assert len(codes) == 10
    return app, codes


def export(bench: Workbench) -> tuple[str, ...]:
    return ("export", "shop", "-o", str(bench.folder / "dump.sql"), "--config", str(bench.config))


def test_a_code_is_asked_for_and_asked_for_again(bench: Workbench) -> None:
    app, codes = enrolled(bench)
    with at_a_terminal(*export(bench), environment=os.environ) as terminal:
        shown = terminal.wait_for("Code of an app, or a recovery code: ")
        assert "export of 'shop' needs a second factor" in shown
        assert 'database: "shop"' in shown
        terminal.type(app.wrong_code())
        terminal.wait_for("this code is wrong")
        terminal.wait_for("recovery code: ")
        terminal.type(app.code())
        assert terminal.end() == 0, terminal.shown
    with at_a_terminal(*export(bench), environment=os.environ) as terminal:
        terminal.wait_for("recovery code: ")
        terminal.type(codes[0])
        assert terminal.end() == 0, terminal.shown
        assert "a recovery code was used: 9 left" in terminal.shown


def test_the_third_wrong_answer_is_the_last(bench: Workbench) -> None:
    app, _ = enrolled(bench)
    with at_a_terminal(*export(bench), environment=os.environ) as terminal:
        for answer in (app.wrong_code(), "what?", app.wrong_code()):
            terminal.wait_for("recovery code: ")
            terminal.type(answer)
        assert terminal.end() == 1
        assert "error: [E091] this code is wrong; 3 more" in terminal.shown
    assert not (bench.folder / "dump.sql").exists()


def test_every_gate_asks_at_a_terminal(
    bench: Workbench, new_database: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, codes = enrolled(bench)
    monkeypatch.setenv("EMPTY_DATABASE_URL", new_database())
    with bench.config.open("a") as config:
        config.write("\n[retention]\nminimum = 1\n")
    live = ("restore", "shop", "--target", "env:SHOP_DATABASE_URL", "--table", "notes")
    gates = [
        (*live, "--into-schema", "beside"),
        ("recover", "shop", "--target", "env:EMPTY_DATABASE_URL", "--yes"),
        ("reseal",),
        ("prune",),
        ("forget", "local"),
        ("factor", "enroll", "--recovery-codes"),
    ]
    for arguments, code in zip(gates, codes, strict=False):
        call = (*arguments, "--config", str(bench.config))
        with at_a_terminal(*call, environment=os.environ) as terminal:
            terminal.wait_for("needs a second factor")
            terminal.wait_for("recovery code: ")
            terminal.type(code)
            assert terminal.end() in (0, 3), terminal.shown
    with at_a_terminal(*export(bench), environment=os.environ) as terminal:
        terminal.wait_for("recovery code: ")
        terminal.type(codes[-1])
        terminal.wait_for("this code is wrong")  # there are new ones


def test_ctrl_c_at_the_question_does_nothing(bench: Workbench) -> None:
    enrolled(bench)
    with at_a_terminal(*export(bench), environment=os.environ) as terminal:
        terminal.wait_for("recovery code: ")
        assert terminal.interrupted() == 130
    assert not (bench.folder / "dump.sql").exists()


def file_to_sign(terminal: Terminal) -> Path:
    terminal.wait_for("ssh-keygen -Y sign -n pgkeep-approve -f KEY ")
    return Path(terminal.wait_for("\n").strip())


def test_a_key_signs_while_the_command_waits(bench: Workbench) -> None:
    device = HardwareKey.ecdsa()
    public = bench.folder / "token.pub"
    public.write_text(device.line)
    enroll = ("factor", "enroll", "token", "--ssh-key", str(public), "--config", str(bench.config))
    for arguments, question in ((enroll, "beside the file): "), (export(bench), "the file): ")):
        with at_a_terminal(*arguments, environment=os.environ) as terminal:
            path = file_to_sign(terminal)
            terminal.wait_for(question)
            path.with_name(f"{path.name}.sig").write_bytes(device.sign(path.read_bytes()))
            terminal.type("")
            assert terminal.end() == 0, terminal.shown
    assert (bench.folder / "dump.sql").exists()
