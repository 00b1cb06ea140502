"""The state folder is this user's alone."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from conftest import Workbench
from pgkeep.errors import StateUnsafe
from pgkeep.repository.state_folder import secure
from second_factors import Person


def made(folder: Path) -> Path:
    folder.mkdir(mode=0o700)
    (folder / "inner").mkdir(mode=0o700)
    for path in (folder / "epoch.json", folder / "inner" / "note"):
        path.touch(0o600)
    return folder


def test_a_folder_that_is_closed_is_left_alone(tmp_path: Path) -> None:
    assert secure(made(tmp_path / "state")) == ()
    assert secure(tmp_path / "none") == ()


def test_what_is_open_to_others_is_closed_and_told(tmp_path: Path) -> None:
    folder = made(tmp_path / "state")
    folder.chmod(0o755)
    (folder / "inner" / "note").chmod(0o644)
    told = secure(folder)
    assert [one.rpartition(" (")[2] for one in told] == ["mode 755): closed now",
                                                         "mode 644): closed now"]  # fmt: skip
    assert folder.stat().st_mode & 0o777 == 0o700
    assert (folder / "inner" / "note").stat().st_mode & 0o777 == 0o600


def test_a_link_to_elsewhere_is_refused(tmp_path: Path) -> None:
    folder = made(tmp_path / "state")
    (folder / "signing.key").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StateUnsafe, match="is a link to elsewhere"):
        secure(folder)


def test_what_belongs_to_another_user_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = made(tmp_path / "state")
    if os.geteuid() == 0:
        os.chown(folder, 12345, -1)
    me = os.geteuid() or 4711
    monkeypatch.setattr(os, "geteuid", lambda: me + 1)
    with pytest.raises(StateUnsafe, match="belongs to another user"):
        secure(folder)


def test_every_command_looks(workbench: Workbench) -> None:
    workbench.init("postgresql://localhost/x")
    workbench.state.mkdir(exist_ok=True)
    workbench.state.chmod(0o777)
    outcome = workbench.pgkeep("list", expect=None)
    assert "others could look into" in outcome.err
    assert workbench.state.stat().st_mode & 0o777 == 0o700
    os.umask(0)
    try:
        workbench.pgkeep("factor", "list")
        Person(workbench).enroll_app()
    finally:
        os.umask(0o022)
    for path in workbench.state.rglob("*"):
        assert path.stat().st_mode & 0o077 == 0, path
