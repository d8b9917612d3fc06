"""A step that is killed at any line and given again leaves the same files, to the bit."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).with_name("kill_points.py")
SOURCE = Path(__file__).parents[2] / "src"

# a step whose state is one number, so that a thousand kills take seconds
SCRIPT = """
import json
from pathlib import Path
from pydantic import BaseModel
from tercet.runs.folder import RunFolder

class Config(BaseModel):
    seed: int = 3

def run(path: Path) -> None:
    with RunFolder.open(path, Config(), preset="tiny") as folder:
        for name in ("sft", "ppo"):
            if not folder.is_done(name):
                learn(folder, name)

def learn(folder: RunFolder, name: str) -> None:
    with folder.step(name, total=7, shown=["loss"]) as step:
        start, state = 0, 0.1
        if restored := step.restore():
            info, checkpoint = restored
            start, state = info["next"], json.loads((checkpoint / "weights").read_text())
        for index in range(start, 7):
            state = 3.9 * state * (1 - state)
            step.log(index, {f"{name}/loss": state})
            if index % 3 == 0:
                step.show(index, [{"prompt": "a", "response": str(state), "score": state}])
            if index % 2 == 1:
                step.save({"next": index + 1}, lambda to: (to / "weights").write_text(json.dumps(state)) and None)
        folder.add_results(name, {"last": {name: state}})
        step.save_folder("model", lambda to: (to / "weights").write_text(json.dumps(state)) and None)
        step.finish({"end": {name: state}})
"""


# every supervised step: dropout, uneven micro-batches, a frozen layer, a measurement that draws from global chance
FIT = """
import torch
from pathlib import Path
from torch import nn
from tercet.config.fit import FitConfig
from tercet.runs.folder import RunFolder
from tercet.train import chance
from tercet.train.checkpoint import Checkpoint
from tercet.train.fit import LossTerms, fit

nn.Linear(1, 1)(torch.zeros(1)).sum().backward()  # what torch imports on its first use, it imports before the forks
torch.optim.AdamW(nn.Linear(1, 1).parameters())

def run(path: Path) -> None:
    with RunFolder.open(path, FitConfig(lr=0.05, checkpoint_every=4, weight_decay=0.01), preset="tiny") as folder:
        if not folder.is_done("sft"):
            learn(folder)

def learn(folder: RunFolder) -> None:
    chance.seed_everything(5, "weights")
    model = nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.3), nn.Tanh(), nn.Linear(8, 8), nn.Linear(8, 1))
    model[3].requires_grad_(False)
    x = torch.randn(60, 6, generator=chance.generator(5, "data"))
    y = x.sum(1, keepdim=True)
    order = torch.randperm(60, generator=chance.generator(5, "order")).tolist()
    with folder.step("sft", total=10, shown=["sft/loss"]) as step:
        fit(
            step,
            modules={"model": model},
            plan=[order[6 * i : 6 * i + 6] for i in range(10)],
            micro_batches=lambda rows: [rows[:4], rows[4:]],
            count=len,
            loss=lambda rows: LossTerms((model(x[rows]) - y[rows]).square().sum(), {"size": float(len(rows))}),
            config=FitConfig(lr=0.05, checkpoint_every=4, weight_decay=0.01),
            seed=5,
            metric_prefix="sft",
            measure=lambda index: {"sft/held_out": (model(x) - y + torch.rand(())).abs().mean().item()},
        )
        step.save_folder("model", Checkpoint.of({"model": model}, {}).save)
        step.finish({"perplexity": {"sft": 1.0}})
"""


def check(script: str, work: Path, *, num_points: int) -> dict[str, int]:
    """How many lines a run of `script` takes and how often it was killed; AssertionError where a kill shows."""
    file = work / "script.py"
    file.write_text(script)
    done = subprocess.run(
        [sys.executable, str(PROGRAM), str(file), str(work), str(num_points)],
        capture_output=True,
        text=True,
        timeout=600,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(SOURCE)},
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_a_run_killed_at_many_lines_ends_as_if_nothing_had_happened(tmp_path: Path) -> None:
    found = check(SCRIPT, tmp_path, num_points=30)
    assert found["kills"] > 30
    assert found["lines"] > 500


@pytest.mark.slow
def test_a_run_killed_at_most_lines_ends_as_if_nothing_had_happened(tmp_path: Path) -> None:
    assert check(SCRIPT, tmp_path, num_points=700)["kills"] > 700


@pytest.mark.slow
def test_a_supervised_step_killed_at_many_lines_learns_the_same_to_the_bit(tmp_path: Path) -> None:
    assert check(FIT, tmp_path, num_points=10)["kills"] > 10
