"""Measure clones from pictures with and without randomised pictures, on the same starts.

    PYTHONPATH=src python benchmarks/arm_eyes.py runs/plain-0 runs/random-0

Prints a row of a Markdown table for each run: success of DIR/bc/model on 256 starts of lift, with plain pictures, with
each randomisation alone and with all of them.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import torch

from tercet.arm.play.agent import sample_episodes
from tercet.arm.play.environments import EnvFactory, sizes_of
from tercet.arm.policies.kinds import load_policy
from tercet.arm.sim.randomise import Randomisation
from tercet.config.load import load_arm_config
from tercet.core.intervals import wilson

NUM, SEED = 256, 20_000  # starts, which no run of a seed below 1000 has used
PICTURES = {
    "plain": Randomisation(),
    "light": Randomisation(light=0.5),
    "texture": Randomisation(texture=0.5),
    "camera": Randomisation(camera=0.01),
    "all": Randomisation(light=0.5, texture=0.5, camera=0.01),
}


def cell(run: Path, randomisation: Randomisation) -> str:
    """Return the success of a run's clone with these pictures, with Wilson's interval."""
    config = load_arm_config(run / "config.yaml", [])
    with replace(EnvFactory.of(config), randomisation=randomisation).open(NUM) as env:
        policy = load_policy(run / "bc" / "model", sizes_of(env))
        played = sample_episodes(env, policy, None, num=NUM, horizon=config.horizon, seed=SEED)
    rate = wilson(played.episodes.succeeded().int().tolist())
    return f"{rate.mean:.3f} ({rate.low:.3f} to {rate.high:.3f})"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--pictures", nargs="+", choices=list(PICTURES), default=list(PICTURES))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(f"| clone | {' | '.join(arguments.pictures)} |\n|---|{'---|' * len(arguments.pictures)}")
    for run in arguments.runs:
        print(f"| {run.name} | {' | '.join(cell(run, PICTURES[name]) for name in arguments.pictures)} |", flush=True)


if __name__ == "__main__":
    main()
