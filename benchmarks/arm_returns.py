"""Measure returns and seconds of PPO on environments' own rewards, Tercet beside its peers; print a table and JSON.

    python benchmarks/arm_returns.py --peers $PEERS --task pendulum --steps 100000 --seeds 2

Each run is a process of its own on one thread, one after the other, with equally many steps of training. The settings
are those of Tercet's preset, those that rl-baselines3-zoo has tuned for Stable-Baselines3, and those of CleanRL's file.
The last policy plays its most likely actions on fresh starts. docs/performance.md explains how to set up the folder
of the peers.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from returns_work import TASKS

HERE = Path(__file__).resolve().parent
Figures = dict[str, Any]  # Any: JSON
OURS = "tercet"
SCRIPTS = {  # the script, its environment in the folder of the peers, and its options
    OURS: ("returns_ours.py", ""),
    "sb3": ("peers/returns_sb3.py", "venv-sb3"),
    "cleanrl": ("peers/returns_cleanrl.py", "venv-cleanrl", "--script", "cleanrl/cleanrl/ppo_continuous_action.py"),
}
COLUMNS = ("final_return", "training_return", "steps_to_target", "cpu_seconds_to_target", "cpu_seconds", "seconds")


def run(who: str, options: Sequence[str], peers: Path) -> Figures:
    """Run a script, and return what it prints."""
    script, place, *more = SCRIPTS[who]
    python = str(peers / place / "bin" / "python") if place else sys.executable
    more = [str(peers / one) if one.endswith(".py") else one for one in more]
    command = [python, str(HERE / script), *more, *options]
    found = os.pathsep.join([str(HERE.parent / "src"), str(HERE), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": found, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def middle(rows: Sequence[Figures], name: str) -> str:
    """Return the median over seeds; a target that was not reached counts as infinite."""
    values = [float("inf") if row[name] is None else row[name] for row in rows]
    found = statistics.median(values)
    return "never" if found == float("inf") else f"{found:,.0f}" if "steps" in name else f"{found:.1f}"


def table(runs: Mapping[str, Sequence[Figures]]) -> str:
    """Return a Markdown table with medians over seeds, and the final return of each."""
    names = ["", *COLUMNS, "final return of each seed"]
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    for who, rows in runs.items():
        each = ", ".join(f"{row['final_return']:.1f}" for row in rows)
        lines.append("| " + " | ".join([who, *(middle(rows, name) for name in COLUMNS), each]) + " |")
    return "\n".join(lines)


def main() -> None:
    """Run Tercet and each peer for every seed."""
    command = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    command.add_argument("--peers", type=Path, required=True, help="folder with venv-sb3, venv-cleanrl and cleanrl")
    command.add_argument("--task", choices=tuple(TASKS), default="pendulum")
    command.add_argument("--steps", type=int, default=100_000)
    command.add_argument("--seeds", type=int, default=2)
    command.add_argument("--first-seed", type=int, default=0)
    command.add_argument("--only", nargs="+", choices=tuple(SCRIPTS), default=list(SCRIPTS))
    settings = command.parse_args()
    runs: dict[str, list[Figures]] = {name: [] for name in settings.only}
    for seed in range(settings.first_seed, settings.first_seed + settings.seeds):
        given = [f"--task={settings.task}", f"--seed={seed}", f"--steps={settings.steps}"]
        for name in settings.only:
            runs[name].append(run(name, given, settings.peers))
            print(name, json.dumps(runs[name][-1]), file=sys.stderr)
    print(table(runs))
    print(json.dumps({"benchmark": "arm_returns", **vars(settings), "peers": "", "runs": runs}))


if __name__ == "__main__":
    main()
