"""Play a policy of an arm's run and return the episodes."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tercet.api.libraries import torch_threads
from tercet.api.record import Run
from tercet.config.arm import ArmConfig
from tercet.config.load import recorded_config
from tercet.errors import InputError
from tercet.runs.folder import RunFolder
from tercet.runs.progress import silent

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Episode:
    """One episode: whether it ended in success, the sum of the dense reward, and a row for each step."""

    success: bool
    dense_return: float
    observations: "np.ndarray"  # (steps, numbers of an observation), before each action
    actions: "np.ndarray"  # (steps, numbers of an action)


def play(run: Run, *, stage: str = "ppo", num_starts: int = 16, seed: int = 0) -> list[Episode]:
    """Play the most likely actions of a stage's policy from `num_starts` starts, one episode each.

    The stages are `ppo` and the policy before PPO: `bc`, or `start` if nothing was cloned. The same seed gives every
    stage the same starts. Raise InputError if the run has no such stage.
    """
    if run.domain != "arm":
        raise InputError(f"{run.path}: is a run of a language model; give a run of a robot arm")
    if num_starts < 1:
        raise InputError(f"num_starts={num_starts}: must be at least 1")
    with silent(), torch_threads(1):
        from tercet.arm.eval import stages_of
        from tercet.arm.play.agent import sample_episodes
        from tercet.arm.play.environments import EnvFactory

        config = recorded_config(ArmConfig, run.config, run.path)
        stages = {one.name: one for one in stages_of(RunFolder.read(run.path), config) if not one.noise}
        if stage not in stages:
            raise InputError(f"stage={stage!r}: {run.path} has {', '.join(stages)}")
        with EnvFactory.of(config).open(num_starts) as env:
            policy = stages[stage].policy
            episodes = sample_episodes(env, policy, None, num=num_starts, horizon=config.horizon, seed=seed).episodes
    lengths = (episodes.first_ends() + 1).tolist()
    return [
        Episode(
            success=bool(episodes.succeeded()[row]),
            dense_return=float(episodes.dense[row, :length].sum()),
            observations=episodes.observations[row, :length].numpy(),
            actions=episodes.actions[row, :length].numpy(),
        )
        for row, length in enumerate(lengths)
    ]
