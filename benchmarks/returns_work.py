"""The environments, the clock and the final evaluation of the benchmark of returns, shared by Tercet and the peers.

It imports nothing of Tercet, since a peer may need another version of Gymnasium.
"""

import argparse
import json
import time
from collections.abc import Callable

import gymnasium
import numpy as np
import torch
from numpy.typing import NDArray

# by the name of Tercet's preset: the environment, a return to reach, and on how many fresh starts the last policy plays
TASKS = {
    "pendulum": ("Pendulum-v1", -250.0, 20),
    "mountain-car": ("MountainCarContinuous-v0", 85.0, 10),
    "half-cheetah": ("HalfCheetah-v5", 1000.0, 5),
}
FRESH = 20_000_003  # the first seed of starts that are not used for training
LAST = 10  # episodes over which returns of training are averaged

Act = Callable[[NDArray], NDArray]  # from one observation to the most likely action, in the environment's units


def parser(what: str) -> argparse.ArgumentParser:
    """Return a parser with the options of every script."""
    found = argparse.ArgumentParser(description=what, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--task", choices=tuple(TASKS), default="pendulum")
    found.add_argument("--seed", type=int, default=0)
    found.add_argument("--steps", type=int, default=100_000)
    return found


class Race:
    """The episodes of training, with the time at which each ended."""

    def __init__(self, who: str, settings: argparse.Namespace) -> None:
        torch.set_num_threads(1)
        self.who, self.settings = who, settings
        self.env_id, self.target, self.num_starts = TASKS[settings.task]
        self.points: list[tuple[int, float, float, float]] = []  # steps, seconds, CPU seconds, return

    def start(self) -> None:
        """Start the clock."""
        self._since = (time.perf_counter(), time.process_time())

    def ended(self, steps: int, earned: float) -> None:
        """Record an episode of training that ended after `steps` steps in all."""
        wall, cpu = self._now()
        self.points.append((steps, wall, cpu, earned))

    def finish(self, steps: int) -> None:
        """Stop the clock."""
        self._total = (steps, *self._now())

    def report(self, act: Act, make: Callable[[], gymnasium.Env], **more: str) -> None:
        """Play the most likely actions on fresh starts, and print one line of JSON."""
        earned = [_play(make(), act, FRESH + start) for start in range(self.num_starts)]
        steps, wall, cpu = self._total
        means = self._means()
        reached = next((point for point in means if point[3] >= self.target), None)
        shown = means[:: max(1, len(means) // 20)]
        figures = {
            "who": self.who,
            **vars(self.settings),
            **more,
            "trained_steps": steps,
            "seconds": round(wall, 1),
            "cpu_seconds": round(cpu, 1),
            "final_return": round(float(np.mean(earned)), 1),
            "final_return_error": round(float(np.std(earned) / len(earned) ** 0.5), 1),
            "training_return": round(means[-1][3], 1) if means else None,
            "steps_to_target": reached and reached[0],
            "cpu_seconds_to_target": reached and round(reached[2], 1),
            "curve": [[point[0], round(point[2], 1), round(point[3], 1)] for point in shown],
        }
        print(json.dumps(figures))

    def _now(self) -> tuple[float, float]:
        return time.perf_counter() - self._since[0], time.process_time() - self._since[1]

    def _means(self) -> list[tuple[int, float, float, float]]:
        """Return the points with the mean return of the last episodes."""
        returns = [point[3] for point in self.points]
        return [
            (*point[:3], float(np.mean(returns[index + 1 - LAST : index + 1])))
            for index, point in enumerate(self.points)
            if index + 1 >= LAST
        ]


def _play(env: gymnasium.Env, act: Act, seed: int) -> float:
    seen, _ = env.reset(seed=seed)
    earned, over = 0.0, False
    while not over:
        seen, reward, terminated, truncated, _ = env.step(act(seen))
        earned, over = earned + float(reward), terminated or truncated
    env.close()
    return earned
