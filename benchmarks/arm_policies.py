"""Measure each kind of policy on a robot arm from few demonstrations: after cloning, and after PPO on a learned reward.

    python benchmarks/arm_policies.py --out runs/policies                      # run every unfinished cell
    python benchmarks/arm_policies.py --out runs/policies lift/act/3           # run one cell
    python benchmarks/arm_policies.py --out runs/policies --seconds 170        # stop then; repeat to continue
    python benchmarks/arm_policies.py --out runs/policies --table              # only print the finished cells

A cell is TASK/KIND/DEMONSTRATIONS: a run of the task's preset with the settings of docs/arm-policies.md. Prints a
Markdown table. Several processes can share the work: a folder in use by another process is skipped.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TASKS, KINDS, NUMS = ("lift", "place"), ("gaussian", "act", "tokens", "diffusion", "flow"), (3, 10, 50)

# changes to the preset, as in docs/arm-policies.md
_CLONING = ["bc.batch_size=64", "bc.epochs=1000", "bc.max_steps=1500"]
SETTINGS: dict[str, list[str]] = {
    "gaussian": ["bc.epochs=500"],
    "act": ["policy.hidden_size=64", *_CLONING, "ppo.lr=1e-4"],
    "tokens": ["policy.hidden_size=64", "policy.log_std=-2", *_CLONING, "ppo.lr=2e-4"],
    "diffusion": [*_CLONING, "ppo.lr=1e-4"],
    "flow": [*_CLONING, "ppo.lr=1e-4"],
}
ALWAYS = ["threads=1", "eval.num_videos=0"]
HEAD = (
    "| task | demonstrations | policy | BC | BC with noise | PPO on the learned reward | update kept | steps | CPU s |"
)


@dataclass(frozen=True)
class Cell:
    """One run of the table."""

    task: str
    kind: str
    num: int
    folder: Path

    def run(self, more: list[str], *, until: float) -> None:
        """Run or continue the cell until it is finished or the time is over; add up the CPU seconds of all attempts."""
        before = _cpu_seconds()
        command = [
            str(Path(sys.executable).with_name("tercet")),
            "arm",
            "run",
            "--preset",
            self.task,
            "--out",
            str(self.folder),
        ]
        command += [f"policy.kind={self.kind}", f"bc.num_demonstrations={self.num}", *SETTINGS[self.kind]]
        try:
            done = subprocess.run([*command, *ALWAYS, *more], check=False, timeout=max(1.0, until - time.monotonic()))
            if done.returncode:  # the run has printed the reason, such as a folder in use
                return
        except subprocess.TimeoutExpired:
            pass  # it was killed at the time limit; the next call continues from the last checkpoint
        with (self.folder / "cpu_seconds.txt").open("a") as file:
            file.write(f"{_cpu_seconds() - before:.1f}\n")

    @property
    def results(self) -> dict[str, Any]:  # Any: JSON
        """Return the results of the run; empty if it is not finished."""
        file = self.folder / "results.json"
        found = json.loads(file.read_text()) if file.exists() else {}
        return found if "ppo" in found.get("success", {}) else {}

    def line(self) -> str:
        """Return the row of the table."""
        found = self.results
        ppo, file = found["success"]["ppo"], self.folder / "cpu_seconds.txt"
        cpu = file.read_text().split() if file.exists() else []  # missing if this script itself was killed
        means = [f"{found['success'][name]['mean']:.3f}" for name in ("bc", "bc_noise")]
        reached = f"{ppo['mean']:.3f} ({ppo['low']:.3f} to {ppo['high']:.3f})"
        update = str(found["best_checkpoint"]["update"])
        rest = [reached, update, f"{found['env_steps']:,}", f"{sum(map(float, cpu)):.0f}" if cpu else "?"]
        return "| " + " | ".join([self.task, str(self.num), self.kind, *means, *rest]) + " |"


def cells(out: Path, wanted: list[str]) -> list[Cell]:
    """Return the requested cells, or all."""
    every = {f"{task}/{kind}/{num}": (task, kind, num) for task in TASKS for num in NUMS for kind in KINDS}
    if odd := [name for name in wanted if name not in every]:
        raise SystemExit(f"no cell {', '.join(odd)}; there are {', '.join(every)}")
    return [Cell(*every[name], out / name.replace("/", "-")) for name in wanted or every]


def table(done: list[Cell]) -> str:
    """Return the results as a Markdown table."""
    return "\n".join([HEAD, "|---" * HEAD.count(" |") + "|", *(cell.line() for cell in done if cell.results)])


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    """Run the cells, and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("cells", nargs="*", metavar="TASK/KIND/DEMONSTRATIONS")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=1e9)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="for every run, such as seed=1")
    parser.add_argument("--table", action="store_true")
    asked = parser.parse_args()
    until, wanted = time.monotonic() + asked.seconds, cells(asked.out, asked.cells)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    for cell in wanted:
        if not asked.table and not cell.results and time.monotonic() < until:
            cell.run(asked.set, until=until)
    print(table(wanted))


if __name__ == "__main__":
    main()
