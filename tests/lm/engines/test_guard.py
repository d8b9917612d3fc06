"""A guarded command ends when its parent ends, however that ends."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tercet.lm.engines import guard

# a command with a child of its own that ignores SIGTERM, as a server with workers may
COMMAND = """
import os, signal, sys, time
if os.fork() == 0:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    open(sys.argv[1] + "/child", "w").write(str(os.getpid()))
    time.sleep(600)
open(sys.argv[1] + "/parent", "w").write(str(os.getpid()))
time.sleep(600)
"""
HOLDER = """
import subprocess, sys, time
process = subprocess.Popen([sys.executable, *sys.argv[1:]], stdin=subprocess.PIPE)
time.sleep(600)
"""


def pids(folder: Path) -> list[int]:
    """Wait until both processes have written their number."""
    files = [folder / "parent", folder / "child"]
    for _ in range(600):
        if all(file.exists() and file.read_text() for file in files):
            return [int(file.read_text()) for file in files]
        time.sleep(0.05)
    raise AssertionError("the command did not start")


def wait_until_gone(numbers: list[int]) -> None:
    for _ in range(600):
        if not any(_lives(number) for number in numbers):
            return
        time.sleep(0.05)
    raise AssertionError(f"still running: {numbers}")


def _lives(number: int) -> bool:
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("end", ["close", "kill"])
def test_the_command_and_its_children_end_with_the_parent(end: str, tmp_path: Path) -> None:
    words = [guard.__file__, sys.executable, "-c", COMMAND, str(tmp_path)]
    holder = subprocess.Popen(
        [sys.executable, *(["-c", HOLDER] if end == "kill" else []), *words], stdin=subprocess.PIPE
    )
    numbers = pids(tmp_path)
    if end == "kill":
        holder.send_signal(signal.SIGKILL)
    else:
        assert holder.stdin is not None
        os.kill(holder.pid, signal.SIGINT)  # Ctrl-C is for the parent
        time.sleep(0.2)
        assert holder.poll() is None and all(_lives(number) for number in numbers)
        holder.stdin.close()
    wait_until_gone(numbers)
    holder.wait()


def test_the_exit_code_is_that_of_the_command() -> None:
    words = [sys.executable, guard.__file__, sys.executable, "-c", "raise SystemExit(7)"]
    with subprocess.Popen(words, stdin=subprocess.PIPE) as process:
        assert process.wait(60) == 7
