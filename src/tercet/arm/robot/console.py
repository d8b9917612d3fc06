"""A session at a terminal: the clock that fits the robot, and single keys without waiting for them."""

import os
import select
import sys
import termios
import tty
from types import TracebackType

from tercet.arm.robot import deploy
from tercet.arm.robot.control import SimulatedClock, WallClock
from tercet.config.robot import RobotConfig
from tercet.errors import InputError
from tercet.runs.progress import say


class Keyboard:
    """Within `with`, `pressed()` gives what was typed since it was last asked; nothing where there is no terminal."""

    def __init__(self) -> None:
        self.is_there = sys.stdin.isatty()

    def __enter__(self) -> "Keyboard":
        if self.is_there:
            self._before = termios.tcgetattr(sys.stdin)
            tty.setcbreak(sys.stdin)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.is_there:
            termios.tcsetattr(sys.stdin, termios.TCSADRAIN, self._before)

    def pressed(self) -> str:
        """Keys, in order."""
        if not self.is_there or not select.select([sys.stdin], [], [], 0)[0]:
            return ""
        # not sys.stdin.read: what it buffers of keys that came together, select no longer sees
        return os.read(sys.stdin.fileno(), 1024).decode(errors="ignore")


def steer(config: RobotConfig, session: deploy.Session) -> list[deploy.Try]:
    """All tries of a session; InputError where a real arm would move with nobody at the keys."""
    simulated = config.robot == "simulated"
    with Keyboard() as keyboard:
        if session.send and not simulated and not keyboard.is_there:
            raise InputError(
                "a real arm moves only with someone at its keys: run this in a terminal, not through a pipe"
            )
        if keyboard.is_there:
            say(deploy.KEYS_HELP)
            if config.teacher != "none":
                say(deploy.TAKEOVER_HELP)
            if session.shows:
                say(deploy.RECORDING_HELP)
        clock = SimulatedClock() if simulated else WallClock()
        if not simulated:
            say("support the arm: connecting lets it go for a moment")
            if keyboard.is_there and not deploy.ready("g connects, q ends", keyboard.pressed, clock, say):
                return []
        try:
            return deploy.run(config, session, keys=keyboard.pressed, clock=clock, say=say)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(
                "the arm holds where it was last sent; nothing of this try is kept, what was kept before is whole"
            ) from None
