"""Train Tercet's PPO on an environment's own reward, with the code of the pipeline; print one line of JSON.

    PYTHONPATH=src:benchmarks python benchmarks/returns_ours.py --task pendulum --seed 0 --steps 100000

The settings are those of the preset of the task, on one thread. The policy after the last update counts, not the best
in validation, and validation is left out of the time.
"""

import tempfile
from collections.abc import Mapping
from pathlib import Path

import gymnasium
import numpy as np
import torch
from numpy.typing import NDArray
from returns_work import Race, parser

from tercet.arm.networks.critic import new_critic
from tercet.arm.play.environments import EnvFactory, bounds_of
from tercet.arm.policies.policy import Policy
from tercet.arm.ppo import Collect, frozen_copy
from tercet.arm.rollout import ArmActorCritic
from tercet.arm.stages import start_policy
from tercet.config.arm import ArmConfig
from tercet.config.load import load_arm_config
from tercet.runs.folder import RunFolder
from tercet.train.ppo.learner import Learner
from tercet.train.ppo.loop import Collected, train
from tercet.train.ppo.selection import Validation


def learn(folder: RunFolder, config: ArmConfig, race: Race) -> tuple[Policy, gymnasium.spaces.Box]:
    """Run `tercet arm ppo`, and return the last policy and the bounds of its actions."""
    envs, ppo = EnvFactory.of(config), config.ppo
    with envs.open(ppo.num_envs) as env:
        bounds = bounds_of(env)
        policy = start_policy(folder, envs, config.policy, bc=config.bc, seed=config.seed)
        critic = new_critic(policy.scaled, config.policy, seed=config.seed)
        actor_critic = ArmActorCritic(policy, critic)
        collect = Collect(
            env, actor_critic, frozen_copy(policy), None, ppo, config.horizon, config.seed, config.measure
        )
        num_updates = 0

        def recorded(index: int, carry: Mapping[str, float]) -> Collected:
            collected = collect(index, carry)
            episodes = collected.own
            ends = episodes["terminated"] | episodes["truncated"]
            for row in range(ppo.num_envs):
                first = 0
                for last in ends[row].nonzero().flatten().tolist():
                    race.ended((index + 1) * ends.numel(), float(episodes["dense"][row, first : last + 1].sum()))
                    first = last + 1
            return collected

        def latest() -> Validation:
            nonlocal num_updates
            num_updates += 1
            return Validation(float(num_updates), torch.zeros(1), 0.0)

        race.start()
        with folder.step("ppo", total=ppo.num_updates, num_before=1, shown=[]) as step:
            train(
                step,
                Learner.of(actor_critic, policy, critic, ppo),
                collect=recorded,
                validate=latest,
                carry={},
                after_update=collect.follow if policy.scaled.moving_buffers else None,
                config=ppo,
                samples_every=ppo.num_updates,
                seed=config.seed,
            )
        race.finish(ppo.num_updates * ppo.num_envs * config.horizon)
    return policy, bounds


def main() -> None:
    """Train and report."""
    command = parser(__doc__ or "")
    command.add_argument("overrides", nargs="*", help="KEY=VALUE for the preset")
    settings = command.parse_args()
    race = Race("tercet", settings)
    given = [f"seed={settings.seed}", "threads=1", "ppo.eval_every=1", "ppo.keep_rollouts=0", *settings.overrides]
    config = load_arm_config(settings.task, given)
    num_updates = settings.steps // (config.ppo.num_envs * config.horizon)
    config = config.model_copy(update={"ppo": config.ppo.model_copy(update={"num_updates": num_updates})})
    with tempfile.TemporaryDirectory() as place, RunFolder.open(Path(place) / "run", config, preset="") as folder:
        policy, bounds = learn(folder, config, race)

    @torch.no_grad()
    def act(seen: NDArray) -> NDArray:
        action = policy.decide(torch.from_numpy(np.asarray(seen, np.float32)), None).clamp(-1, 1).numpy()
        return (bounds.low + (action + 1) / 2 * (bounds.high - bounds.low)).astype(bounds.dtype)

    race.report(act, lambda: gymnasium.make(config.env))


if __name__ == "__main__":
    main()
