"""Measure seconds to 95 % success on the arm for Tercet and its peers, each in its own process; print a table and JSON.

    python benchmarks/arm_ppo.py --peers $PEERS --seeds 3
    python benchmarks/arm_ppo.py --peers $PEERS --task lift --seeds 3      # all start from the same clone

The time includes rollouts and updates. It excludes the creation of environments and the evaluation on 256 held-out
starts after each update. The networks use one thread, the simulation `--threads`. docs/performance.md explains how to
set up the folder of the peers.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
Figures = dict[str, Any]  # Any: JSON
OURS = "tercet"
SCRIPTS = {
    OURS: ("arm_ours.py",),
    "sb3, our numbers": ("peers/arm_sb3.py", "--settings", "ours"),
    "sb3, its numbers": ("peers/arm_sb3.py", "--settings", "theirs"),
    "sb3, normalised": ("peers/arm_sb3.py", "--settings", "normalized"),
    "rsl_rl, our numbers": ("peers/arm_rsl.py", "--settings", "ours"),
    "rsl_rl, its numbers": ("peers/arm_rsl.py", "--settings", "theirs"),
}
COLUMNS = ("seconds_to_95", "cpu_seconds_to_95", "steps_to_95", "steps_per_second", "steps_per_cpu_second")


class ScriptFailed(Exception):
    """A script ended with an error; the message has its command and the end of its output."""


def run(script: Sequence[str], options: Sequence[str], peers: Path) -> str:
    """Run a script, and return the JSON that it prints last."""
    python = sys.executable if script is SCRIPTS[OURS] else str(peers / "venv-sb3" / "bin" / "python")
    command = [python, str(HERE / script[0]), *script[1:], *options]
    found = os.pathsep.join([str(HERE.parent / "src"), str(HERE)])
    environment = {**os.environ, "PYTHONPATH": found, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ScriptFailed(f"{' '.join(command)}\n{done.stderr[-2000:]}")
    return (done.stdout.splitlines() or [""])[-1]


def median(rows: Sequence[Figures], name: str) -> float | None:
    """Return the median over seeds; a seed that did not reach 95 % counts as infinite."""
    values = [float("inf") if row[name] is None else row[name] for row in rows]
    middle = statistics.median(values)
    return None if middle == float("inf") else middle


def table(runs: Mapping[str, Sequence[Figures]]) -> str:
    """Return a Markdown table with medians over seeds."""
    names = ["", *COLUMNS, "reached", "ours / its: seconds"]
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    own = median(runs[OURS], "seconds_to_95")
    for who, rows in runs.items():
        middles = [median(rows, name) for name in COLUMNS]
        cells = ["never" if middle is None else f"{middle:.4g}" for middle in middles]
        num = sum(row["seconds_to_95"] is not None for row in rows)
        ratio = f"{own / middles[0]:.2f}" if own and middles[0] else ""
        lines.append("| " + " | ".join([who, *cells, f"{num} of {len(rows)}", ratio]) + " |")
    return "\n".join(lines)


def main() -> None:
    """Run Tercet and each peer for every seed."""
    command = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    command.add_argument("--peers", type=Path, required=True, help="folder that holds venv-sb3")
    command.add_argument("--task", choices=("reach", "lift"), default="reach")
    command.add_argument("--seeds", type=int, default=3)
    command.add_argument("--first-seed", type=int, default=0)
    command.add_argument("--only", nargs="+", choices=tuple(SCRIPTS), default=list(SCRIPTS))
    settings, options = command.parse_known_args()
    chosen = {name: SCRIPTS[name] for name in dict.fromkeys([OURS, *settings.only])}
    runs: dict[str, list[Figures]] = {name: [] for name in chosen}
    with tempfile.TemporaryDirectory() as place:
        for seed in range(settings.first_seed, settings.first_seed + settings.seeds):
            given = ["--task", settings.task, "--seed", str(seed), *options]
            if settings.task == "lift":
                clone = str(Path(place) / f"clone-{seed}")
                run(SCRIPTS[OURS], [*given, "--make-clone", clone], settings.peers)
                given += ["--clone", clone]
            for name, script in chosen.items():
                runs[name].append(json.loads(run(script, given, settings.peers)))
                print(name, {key: runs[name][-1][key] for key in (*COLUMNS, "best_success")}, file=sys.stderr)
    print(table(runs))
    print(json.dumps({"benchmark": "arm_ppo", "task": settings.task, "runs": runs}))


if __name__ == "__main__":
    main()
