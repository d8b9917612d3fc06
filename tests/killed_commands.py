"""Kill a command at random moments until it is allowed to finish."""

import random
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path


def killed_at_random(command: Sequence[str], environment: Mapping[str, str], out: Path, *, most_rows: int) -> int:
    """Kill the command four times, let it finish, and return how often it had not ended before.

    A moment comes up to `most_rows` rows of the runs in `out` after the start: machines differ in speed.
    """

    def num_rows() -> int:
        return sum(len(file.read_bytes().splitlines()) for file in out.glob("*/metrics.jsonl"))

    chance, num_killed = random.Random(0), 0
    for _ in range(4):
        process, enough = subprocess.Popen(command, env=environment), num_rows() + chance.randint(2, most_rows)
        while process.poll() is None and num_rows() < enough:
            time.sleep(0.02)
        time.sleep(chance.uniform(0, 0.4))
        process.kill()
        num_killed += process.wait() == -signal.SIGKILL
    assert subprocess.run(command, env=environment, check=False).returncode == 0
    return num_killed
