"""Run Tercet's PPO on the arm, with the code of the pipeline, until 95 % of the held-out starts succeed; print JSON.

    PYTHONPATH=src:benchmarks python benchmarks/arm_ours.py --task reach --seed 0

Rollouts, rewards, updates, rows and checkpoints are those of `tercet arm ppo`. The time excludes the self-check, which
does not train and takes as long as one rollout. `--make-clone DIR` only clones demonstrations.
"""

import contextlib
import tempfile
from pathlib import Path

import torch
from arm_work import Race, config_of, parser

from tercet.arm import bc
from tercet.arm.networks.critic import new_critic
from tercet.arm.play.environments import EnvFactory, sizes_of
from tercet.arm.policies.gaussian import load_gaussian
from tercet.arm.policies.policy import Policy
from tercet.arm.ppo import Collect, frozen_copy
from tercet.arm.rollout import ArmActorCritic
from tercet.arm.stages import start_policy
from tercet.config.arm import ArmConfig
from tercet.runs.folder import RunFolder
from tercet.train.optim import adamw
from tercet.train.ppo.learner import Learner
from tercet.train.ppo.loop import train
from tercet.train.ppo.selection import Validation


class Reached(Exception):
    """The policy has reached the target."""


def starting(folder: RunFolder, config: ArmConfig, clone: Path | None) -> Policy:
    """Return the clone, or a new policy."""
    envs = EnvFactory.of(config)
    if clone is None:
        return start_policy(folder, envs, config.policy, bc=config.bc, seed=config.seed)
    with envs.open(1) as env:
        policy = load_gaussian(clone / "bc" / "model", sizes_of(env))
    policy.explore(config.policy.log_std)
    return policy.requires_grad_(True)


def learn(folder: RunFolder, config: ArmConfig, race: Race) -> None:
    """Run `tercet arm ppo`, and evaluate after every update."""
    clone = race.settings.clone
    with EnvFactory.of(config).open(config.ppo.num_envs) as env:
        race.start()
        policy = starting(folder, config, clone)
        critic = new_critic(policy.scaled, config.policy, seed=config.seed)
        actor_critic = ArmActorCritic(policy, critic)
        collect = Collect(env, actor_critic, frozen_copy(policy), None, config.ppo, config.horizon, config.seed)

        def act(seen: object) -> object:
            with torch.no_grad():
                return policy(torch.from_numpy(seen)).clamp(-1, 1).numpy()

        def judge() -> Validation:
            if race.judge(act, len(race.points) * config.ppo.num_envs * config.horizon):
                raise Reached
            success = race.points[-1]["success"]
            return Validation(success, torch.tensor([success]), 0.0)

        with folder.step("ppo", total=config.ppo.num_updates + 1, shown=[]) as step:
            train(
                step,
                Learner.of(actor_critic, policy, critic, config.ppo),
                collect=collect,
                validate=judge,
                carry={},
                config=config.ppo,
                samples_every=config.ppo.num_updates,
                seed=config.seed,
            )


def main() -> None:
    """Train until the target is reached, or make a clone."""
    command = parser(__doc__ or "")
    command.add_argument("--make-clone", type=Path)
    settings = command.parse_args()
    folder = settings.make_clone
    del settings.make_clone
    config = config_of(settings)
    if folder is not None:
        with RunFolder.open(folder, config, preset=settings.task) as run:
            bc.run(run, config)
        return
    race = Race("tercet", settings)
    # torch loads modules for a second at the first optimizer; the peers also create theirs before the clock starts
    adamw(torch.nn.Linear(1, 1), lr=1.0)
    with (
        tempfile.TemporaryDirectory() as place,
        RunFolder.open(Path(place) / "run", config, preset="") as run,
        contextlib.suppress(Reached),
    ):
        learn(run, config, race)
    race.report(settings="ours")


if __name__ == "__main__":
    main()
