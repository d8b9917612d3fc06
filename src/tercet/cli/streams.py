"""Standard streams and signals of every command."""

import os
import signal
import sys
from types import FrameType


class Ended(SystemExit):
    """A signal asks the process to end; open files are closed on the way out."""

    def __init__(self, number: int) -> None:
        self.name, self.status = signal.Signals(number).name, 128 + number
        super().__init__(self.status)

    def __str__(self) -> str:
        return f"ended by {self.name}"


def prepare() -> None:
    """Make standard streams accept any text, replace closed ones, and turn SIGTERM and SIGHUP into an orderly exit."""
    for name in ("stdin", "stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed: else the next file that is opened would take its number, and what is printed
            setattr(sys, name, open(os.devnull, "r" if name == "stdin" else "w", encoding="utf-8"))  # noqa: PTH123, SIM115
        elif name != "stdin":
            stream.reconfigure(errors="backslashreplace")  # a terminal of few letters is no reason to stop
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:  # nohup has SIGHUP ignored
            signal.signal(number, _end)


def _end(number: int, frame: FrameType | None) -> None:
    raise Ended(number)
