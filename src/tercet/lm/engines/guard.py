"""Run a command, and end it when this process is told to end or when its parent ends, however that ends.

    python guard.py COMMAND...

The parent holds the other end of standard input. A parent that is killed can end nothing itself, and a server that
outlives it would keep the memory of a GPU.
"""

import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress

GRACE = 15.0  # seconds before a command that ignores SIGTERM is killed


def main() -> int:
    """Return the exit code of the command."""
    # a session of its own: Ctrl-C in a terminal reaches the parent, which decides; children of the command end with it
    child = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL, start_new_session=True)

    def end() -> None:
        os.read(0, 1)  # returns at the end of standard input
        _signal(child.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            child.wait(GRACE)
        _signal(child.pid, signal.SIGKILL)  # also what the command has left behind

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    watcher = threading.Thread(target=end, daemon=True)
    watcher.start()
    code = child.wait()
    _signal(child.pid, signal.SIGKILL)
    return code


def _signal(group: int, number: int) -> None:
    with suppress(ProcessLookupError, PermissionError):  # it has ended
        os.killpg(group, number)


if __name__ == "__main__":
    sys.exit(main())
