"""Keys at a real terminal, and what is asked there before an arm is connected."""

import os
import pty
import select
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tercet.arm.robot import console, deploy
from tercet.arm.robot.console import Keyboard
from tercet.arm.sim.so101 import INSTALL, PACKAGE
from tercet.arm.sim.tasks.builtin import TASKS
from tercet.cli import app
from tercet.config.load import load_robot_config


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Where to write what is typed at the terminal that is stdin."""
    ours, theirs = pty.openpty()
    with os.fdopen(theirs) as terminal:
        monkeypatch.setattr(sys, "stdin", terminal)
        yield ours
    os.close(ours)


def press(typed: int, keys: bytes) -> None:
    os.write(typed, keys)
    select.select([sys.stdin], [], [], 5.0)  # they take a moment to the other end


def test_keys_that_come_together_are_all_there_at_once(typed: int) -> None:
    with Keyboard() as keyboard:
        assert keyboard.has_terminal and keyboard.pressed() == ""
        press(typed, b"t r ")
        assert keyboard.pressed() == "t r "
        assert keyboard.pressed() == ""
        press(typed, "\u00e9".encode()[:1] + b" ")  # half a letter is no key
        assert keyboard.pressed() == " "


def test_without_a_terminal_nothing_is_pressed(monkeypatch: pytest.MonkeyPatch) -> None:
    with Path(os.devnull).open() as nothing:
        monkeypatch.setattr(sys, "stdin", nothing)
        with Keyboard() as keyboard:
            assert not keyboard.has_terminal and keyboard.pressed() == ""


def test_ctrl_c_promises_no_checkpoint(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def interrupted(keyboard: Keyboard) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(Keyboard, "pressed", interrupted)
    result = CliRunner().invoke(app, ["arm", "record", str(tmp_path / "demos")])
    assert result.exit_code == 130
    assert "interrupted; the arm holds its last commanded position; this try was not saved" in result.stderr


def test_before_a_real_arm_is_connected_a_person_holds_it(typed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []

    def say(text: str) -> None:
        said.append(text)
        if text == "g connects, q ends":
            press(typed, b"q")

    monkeypatch.setattr(console, "say", say)
    config = load_robot_config("so101", [])  # which says no port: connecting it would be an error
    assert console.steer(config, deploy.Session(TASKS["reach"], None, 1, 1.0, True)) == []
    assert "support the arm: connecting turns its motors off for a moment" in said


@pytest.mark.slow
@pytest.mark.skipif(find_spec(PACKAGE) is None, reason=f"needs the model of the SO-101: {INSTALL}")
def test_a_calibration_shows_its_poses_and_is_stopped_by_a_key(
    typed: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said: list[str] = []

    def say(text: str) -> None:
        said.append(text)
        if text.startswith(("1 of 15", "2 of 15")):
            press(typed, b"g" if text.startswith("1") else b"q")

    monkeypatch.setattr(console, "say", say)
    (tmp_path / "mine-poses-a4.html").write_text("drawn")  # drawing all poses takes long
    with pytest.raises(KeyboardInterrupt, match="readings kept: 1"):
        console.calibrate(load_robot_config("simulated-so101", []), tmp_path / "mine.yaml", "a4")
    assert said[-1] == "the motors stay off: lay the arm down"
    assert (tmp_path / "mine.yaml.readings.json").exists() and not (tmp_path / "mine.yaml").exists()
    if not any("there are no pictures" in line for line in said):
        assert capsys.readouterr().out.count("▀") > 1000
