"""Run a robot session at a terminal, and read single keys without blocking."""

import os
import select
import sys
import termios
import tty
from pathlib import Path
from types import TracebackType

from tercet.arm.robot import calibrate as calibrate_arm
from tercet.arm.robot import deploy
from tercet.arm.robot.control import SimulatedClock, WallClock
from tercet.arm.robot.devices import LimpArm, find_robot
from tercet.arm.robot.pose_pictures import Album, as_text, write_page
from tercet.arm.robot.poses import Paper, Pose, Touch, all_steps
from tercet.arm.robot.simulated import PosedArm
from tercet.arm.sim.so101 import So101
from tercet.config.robot import RobotConfig
from tercet.errors import FailedError, InputError
from tercet.runs.progress import say
from tercet.runs.screen import screen

_COLUMNS = 72  # of a picture in the terminal


class Keyboard:
    """Within `with`, `pressed()` returns the keys typed since its last call; without a terminal it returns none."""

    def __init__(self) -> None:
        self.has_terminal = sys.stdin.isatty()

    def __enter__(self) -> "Keyboard":
        if self.has_terminal:
            self._before = termios.tcgetattr(sys.stdin)
            tty.setcbreak(sys.stdin)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.has_terminal:
            termios.tcsetattr(sys.stdin, termios.TCSADRAIN, self._before)

    def pressed(self) -> str:
        """Return the keys that were typed since the last call, in order."""
        if not self.has_terminal or not select.select([sys.stdin], [], [], 0)[0]:
            return ""
        # sys.stdin.read would buffer keys that arrive together, and select would not report the buffered ones
        return os.read(sys.stdin.fileno(), 1024).decode(errors="ignore")


def steer(config: RobotConfig, session: deploy.Session) -> list[deploy.Try]:
    """Run all tries of a session. Raise InputError if a real arm would move without a person at the keyboard."""
    simulated = config.robot == "simulated"
    with Keyboard() as keyboard:
        if session.send and not simulated and not keyboard.has_terminal:
            raise InputError(
                "a real arm needs a person at the keyboard: run this command in a terminal, not through a pipe"
            )
        if keyboard.has_terminal:
            say(deploy.KEYS_HELP)
            if config.teacher != "none":
                say(deploy.TAKEOVER_HELP)
            if session.is_recording:
                say(deploy.RECORDING_HELP)
        clock = SimulatedClock() if simulated else WallClock()
        if not simulated:
            say(deploy.SUPPORT_HELP)
            if keyboard.has_terminal and not deploy.ready(deploy.CONNECT, keyboard.pressed, clock, say):
                return []
        try:
            return deploy.run(config, session, keys=keyboard.pressed, clock=clock, say=say)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(
                "the arm holds its last commanded position; this try was not saved, earlier recordings are complete"
            ) from None


def calibrate(config: RobotConfig, file: Path, paper: Paper) -> list[str]:
    """Calibrate a robot in a session at the terminal, write its file, and return what changed.

    Raise InputError without a person at the keyboard, unless the arm is simulated, which is then posed by itself.
    """
    simulated = config.robot == "simulated"
    if config.model != So101.name:
        raise InputError(f"model={config.model}: only the stops of an SO-101 are known; for one, give model=so101")
    numbers_only = config.model_copy(update={"cameras": {}})
    robot = PosedArm(config.calibration) if simulated else find_robot(numbers_only, task="", seed=0)
    file.parent.mkdir(parents=True, exist_ok=True)
    readings = calibrate_arm.Readings.open(file.with_name(f"{file.name}.readings.json"), config, paper)
    with Keyboard() as keyboard:
        if not simulated and not keyboard.has_terminal:
            raise InputError("a person must pose the arm: run this command in a terminal, not through a pipe")
        keys = keyboard.pressed if keyboard.has_terminal else lambda: calibrate_arm.READ
        clock = SimulatedClock() if simulated and not keyboard.has_terminal else WallClock()
        album = _album(file, paper, needed=keyboard.has_terminal)
        say("hold the arm: its motors are switched off now, and it falls if nobody holds it")
        if not simulated and not deploy.ready(deploy.CONNECT, keys, clock, say):
            raise KeyboardInterrupt("nothing was read")

        def show(step: Pose | Touch) -> None:
            if isinstance(robot, PosedArm):
                robot.pose(step.joints)
            if album is not None:
                screen().print(as_text(album.picture(step), _COLUMNS))

        with LimpArm(robot, config) as arm:
            try:
                found = calibrate_arm.run(config, arm, readings, keys=keys, clock=clock, say=say, show=show)
            except KeyboardInterrupt:  # q or Ctrl-C
                raise KeyboardInterrupt(readings.kept()) from None
            finally:
                say("the motors stay off: lay the arm down")
        if album is not None:
            album.close()
        changes = list(calibrate_arm.differences(config.calibration, found))
        say("\n".join(["changes:", *changes]) if changes else "nothing changes")
        if not deploy.ready(f"g writes {file}, q leaves it as it is", keys, clock, say):
            raise KeyboardInterrupt(f"{file} was not written; the readings are kept")
    calibrate_arm.write(file, config, found)
    readings.file.unlink(missing_ok=True)
    return changes


def _album(file: Path, paper: Paper, *, needed: bool) -> Album | None:
    """Write the page of all poses, unless it is there, and return what draws them. None if it is not `needed` for more.

    Without OpenGL there is no page and None.
    """
    page = file.with_name(f"{file.stem}-poses-{paper}.html")
    album = None
    try:
        if needed or not page.exists():
            album = Album()
        if album is not None and not page.exists():
            write_page(page, all_steps(So101(), paper), album)
    except FailedError as error:
        say(f"there are no pictures of the poses: {error}")
        return None
    say(f"pictures of all poses, for the browser: {page}")
    return album if needed else None
