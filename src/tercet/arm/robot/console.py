"""Run a robot session at a terminal, and read single keys without blocking."""

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
