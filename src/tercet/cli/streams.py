"""Standard streams and signals of every command."""

import os
import signal
import sys

from tercet.runs.ranks import is_launched_to_follow
from tercet.runs.stop import on_signal


def prepare() -> None:
    """Make standard streams accept any text, replace closed ones, and turn SIGTERM and SIGHUP into an orderly exit."""
    for name in ("stdin", "stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed; the next opened file would get its number and receive the output
            setattr(sys, name, open(os.devnull, "r" if name == "stdin" else "w", encoding="utf-8"))  # noqa: PTH123, SIM115
        elif name != "stdin":
            stream.reconfigure(
                errors="backslashreplace"
            )  # a terminal with a small character set must not stop the program
    if is_launched_to_follow():
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115  # rank 0 prints
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:  # under nohup, SIGHUP stays ignored
            signal.signal(number, on_signal)
