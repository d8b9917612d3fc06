"""Playing records what happened, including episodes that end at different steps."""

from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, VectorEnv

from tercet.arm.play.episodes import play
from tercet.arm.sim.env import make_env
from tercet.errors import InputError


class Counter(VectorEnv):
    """Observes the number of steps of its episode and the seed; environment i ends after i + 2 steps."""

    metadata = {"autoreset_mode": AutoresetMode.DISABLED}

    def __init__(self, num_envs: int, *, success: bool = True) -> None:
        self.num_envs, self.with_success = num_envs, success
        self.single_observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32)
        self.single_action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)
        self.count, self.seed = np.zeros(num_envs), 0

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:  # Any: Gymnasium's
        self.seed = self.seed if seed is None else seed
        self.count[options["reset_mask"] if options else np.ones(self.num_envs, bool)] = 0
        return self.seen(), {}

    def step(self, actions: Any) -> Any:  # Any: Gymnasium's
        self.count += 1
        over = self.count >= np.arange(self.num_envs) + 2
        infos = {"success": self.count > 1} if self.with_success else {"text": "none"}
        return self.seen(), actions[:, 0], over, np.zeros(self.num_envs, bool), infos

    def seen(self) -> Any:
        return np.stack([self.count, np.full(self.num_envs, self.seed)], 1).astype(np.float32)


def test_each_column_is_one_step_and_a_row_starts_another_episode_after_an_end() -> None:
    episodes = play(Counter(2), lambda step, seen, fresh: torch.full((2, 1), float(step)), horizon=5, seed=7)
    assert episodes.observations[..., 0].tolist() == [[0, 1, 0, 1, 0], [0, 1, 2, 0, 1]]
    assert episodes.next_observations[..., 0].tolist() == [[1, 2, 1, 2, 1], [1, 2, 3, 1, 2]]
    assert episodes.observations[..., 1].unique().tolist() == [7]
    assert episodes.dense.tolist() == [[0, 1, 2, 3, 4]] * 2  # the action of each step, which this one pays
    assert episodes.terminated.int().tolist() == [[0, 1, 0, 1, 0], [0, 0, 1, 0, 0]]
    assert episodes.first_ends().tolist() == [1, 2]
    assert episodes.succeeded().tolist() == [True, True]
    assert episodes.num_steps == 10


def test_success_of_a_row_without_an_end_is_that_of_its_last_step() -> None:
    episodes = play(Counter(1), lambda step, seen, fresh: torch.zeros(1, 1), horizon=1, seed=0)
    assert (episodes.first_ends().tolist(), episodes.succeeded().tolist()) == ([0], [False])


def test_an_environment_that_does_not_report_success_is_refused() -> None:
    with pytest.raises(InputError, match="does not report success: its infos contain nothing"):
        play(Counter(1, success=False), lambda step, seen, fresh: torch.zeros(1, 1), horizon=2, seed=0)


def test_the_same_seed_gives_the_same_bits_with_any_number_of_threads() -> None:
    def bits(threads: int) -> torch.Tensor:
        env = make_env("lift", 4, horizon=8, num_threads=threads)
        episodes = play(env, lambda step, seen, fresh: seen[:, :5].tanh(), horizon=8, seed=3)
        env.close()
        return episodes.next_observations

    assert torch.equal(bits(1), bits(2))
