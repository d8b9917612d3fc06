"""The task, the held-out starts and the clock of the arm benchmarks, shared by Tercet and the peers.

The networks, the batch and the settings of PPO are those of Tercet's preset of the task, with the environment's dense
reward. With `--clone`, all start from the same cloned policy.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from tercet.arm.sim.env import ArmEnv
from tercet.config.arm import ArmConfig
from tercet.config.load import load_arm_config

ENOUGH = 0.95
HELD_OUT = 20_000_003  # the seed of starts that are not used for training
NUM_STATES = 256

Act = Callable[[NDArray[np.float32]], NDArray[np.float32]]  # from observations to the most likely actions


def parser(what: str) -> argparse.ArgumentParser:
    """Return a parser with the options of every script."""
    found = argparse.ArgumentParser(description=what, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--task", choices=("reach", "lift"), default="reach")
    found.add_argument("--seed", type=int, default=0)
    found.add_argument("--threads", type=int, default=2, help="of the simulation; the networks take one")
    found.add_argument("--updates", type=int, default=0, help="at most; 0: as many as the preset has")
    found.add_argument("--clone", type=Path, help="run folder whose bc/model all start from")
    return found


def config_of(settings: argparse.Namespace) -> ArmConfig:
    """Return the preset with the dense reward."""
    overrides = [f"seed={settings.seed}", f"threads={settings.threads}", "ppo.reward={dense: 1.0}", "ppo.eval_every=1"]
    overrides += [f"ppo.num_updates={settings.updates}"] * bool(settings.updates)
    return load_arm_config(settings.task, overrides)


def make(settings: argparse.Namespace, num_envs: int) -> ArmEnv:
    """Return `num_envs` environments of the arm."""
    horizon = config_of(settings).horizon
    return ArmEnv(settings.task, num_envs, seed=settings.seed, horizon=horizon, num_threads=settings.threads)


class Race:
    """The training time so far and the success rates; the clock stops during evaluation."""

    def __init__(self, name: str, settings: argparse.Namespace) -> None:
        torch.set_num_threads(1)
        self.name, self.settings = name, settings
        self.env = make(settings, NUM_STATES)
        self.points: list[dict[str, float]] = []
        self._wall = self._cpu = 0.0
        self._steps = 0

    def start(self) -> None:
        """Start the clock."""
        self._since = (time.perf_counter(), time.process_time())

    def judge(self, act: Act, steps: int) -> bool:
        """Record the success rate after `steps` steps in total; return True if the target is reached."""
        wall, cpu = time.perf_counter() - self._since[0], time.process_time() - self._since[1]
        self._wall, self._cpu, self._steps = self._wall + wall, self._cpu + cpu, steps
        success = self.success(act)
        self.points.append({"steps": steps, "seconds": self._wall, "cpu_seconds": self._cpu, "success": success})
        self.start()
        return success >= ENOUGH

    def success(self, act: Act) -> float:
        """Return the success rate at the end of the episode on the held-out starts."""
        seen, infos = self.env.reset(seed=HELD_OUT)
        for _ in range(self.env.horizon):
            seen, *_, infos = self.env.step(act(seen))
        return float(infos["success"].mean())

    def report(self, **more: str) -> None:
        """Print one line of JSON; `seconds_to_95` is null if 95 % was not reached."""
        reached = next((point for point in self.points if point["success"] >= ENOUGH), None)
        options = {name: value for name, value in vars(self.settings).items() if name != "clone"}
        figures = {
            "who": self.name,
            **options,
            **more,
            "cloned": self.settings.clone is not None,
            "seconds_to_95": reached and round(reached["seconds"], 2),
            "cpu_seconds_to_95": reached and round(reached["cpu_seconds"], 2),
            "steps_to_95": reached and reached["steps"],
            "steps_per_second": round(self._steps / self._wall),
            "steps_per_cpu_second": round(self._steps / self._cpu),
            "best_success": max(point["success"] for point in self.points),
            "curve": [
                [point["steps"], round(point["seconds"], 2), round(point["success"], 3)] for point in self.points
            ],
        }
        print(json.dumps(figures))
