"""A PPO step beside another busy process: with three ways in which OpenMP's threads wait.

    python benchmarks/busy.py --lengths real --batch 16 --iters 2

All other arguments are those of `ppo_step.py`. Every measurement is a process of its own, because OpenMP reads
these variables once. The busy process is a Python loop that takes one core. The last line is JSON: seconds of a step by
policy, alone and beside the busy process.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

POLICIES = {
    "spin": {},  # OpenMP's default
    "spin briefly": {"GOMP_SPINCOUNT": "10000"},  # as the command `tercet` sets it
    "sleep": {"OMP_WAIT_POLICY": "passive"},
}


@contextmanager
def busy(num: int) -> Iterator[None]:
    """Keep `num` cores busy."""
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(num)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def seconds(variables: dict[str, str]) -> float:
    """Return the median seconds of a step in a new process with these environment variables."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
    command = [sys.executable, str(Path(__file__).with_name("ppo_step.py")), *sys.argv[1:]]
    out = subprocess.run(command, env=clean | variables, stdout=subprocess.PIPE, text=True, check=True).stdout
    return json.loads(out.splitlines()[-1])["total_s"]


def main() -> None:
    """Measure all cases in turn."""
    figures: dict[str, dict[str, float]] = {name: {} for name in POLICIES}
    for place, num in (("alone", 0), ("beside", 1)):
        for name, variables in POLICIES.items():
            with busy(num):
                figures[name][place] = seconds(variables)
            print(f"{name}, {place}: {figures[name][place]:.2f} s", flush=True)
    print(json.dumps({"name": "busy", "seconds": figures}))


if __name__ == "__main__":
    main()
