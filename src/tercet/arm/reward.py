"""Step 2: train an ensemble of reward models on preferences between segments (Christiano et al. 2017)."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import torch
from gymnasium.vector import VectorEnv

from tercet.arm.demonstrations.digests import digests
from tercet.arm.networks.reward_ensemble import RewardEnsemble
from tercet.arm.play.agent import Agent, set_witness, sight_of
from tercet.arm.play.environments import EnvFactory
from tercet.arm.play.episodes import ActionFunction, Episodes, play_rows
from tercet.arm.play.footage import Footage
from tercet.arm.policies.policy import Policy
from tercet.arm.preferences import audit, human
from tercet.arm.preferences.ensemble import correct_by_pair, micro_batches, new_ensemble, normalise, pair_loss
from tercet.arm.preferences.pairs import Pairs, load_pairs
from tercet.arm.preferences.questions import Teacher, ask
from tercet.arm.stages import start_policy
from tercet.config.arm import ArmConfig, RewardConfig
from tercet.core.intervals import wilson
from tercet.runs.folder import RunFolder
from tercet.runs.intermediate import is_kept, keep_folder
from tercet.runs.progress import say
from tercet.runs.ranks import share
from tercet.train import chance
from tercet.train.device import device_of
from tercet.train.fit import fit, shuffled_plan
from tercet.train.parallel import own_share

Tree = dict[str, Any]  # Any: JSON
HELD_OUT = 10  # every tenth episode is held out


def run(folder: RunFolder, config: ArmConfig) -> None:
    """Ask about segments, train the reward model, measure it on held-out pairs, and save it in DIR/reward/model."""
    envs, teacher = EnvFactory.of(config), Teacher(config.reward, config.env, config.seed)
    device = device_of(config.device)

    @contextmanager
    def open_footage() -> Iterator[dict[str, Footage]]:
        policy = start_policy(folder, envs, config.policy, bc=config.bc, seed=config.seed)
        policy = policy.to(device)
        with folder.timed("reward", "pairs"), envs.open(config.reward.num_episodes) as env:
            if config.reward.sees == "pictures":
                set_witness(env, policy)
            footage = noisy_footage(env, policy, config.reward, horizon=config.horizon, seed=config.seed)
            if config.reward.sees == "pictures":
                _keep_truth(folder.path / "reward", footage)
            yield footage

    learned, held_out = first_pairs(folder.path, teacher, open_footage)
    learned, held_out = learned.to(device), held_out.without_ties().to(device)
    _train(folder, learned, held_out, config)


def _keep_truth(step: Path, footage: Mapping[str, Footage]) -> None:
    """Save what was seen in the episodes and the truth about it, for the audit of the reward."""

    def write(partial_folder: Path) -> None:
        for name in (audit.LEARNED, audit.HELD_OUT):
            audit.Truth.of(footage[name].episodes()).save(partial_folder / f"{name}.safetensors")

    if not is_kept(step, audit.FOLDER):
        keep_folder(step, audit.FOLDER, write)


def _audit(step: Path, model: RewardEnsemble) -> Tree:
    """Audit a reward from pictures on the held-out episodes."""
    is_kept(step, audit.FOLDER)  # FailedError if it was changed
    learned, held_out = (audit.load_truth(audit.file_of(step, name)) for name in (audit.LEARNED, audit.HELD_OUT))
    found = audit.audit(model, audit.threshold_of(model, learned), held_out)
    say(f"reward: audit on {found['num_episodes']} held-out episodes: {audit.in_words(found)}")
    return {"audit": found}


def _train(folder: RunFolder, learned: Pairs, held_out: Pairs, run_config: ArmConfig) -> None:
    config, seed, data = run_config.reward, run_config.seed, digests(run_config, "reward")
    model = new_ensemble(learned, config, seed=seed)
    steps = shuffled_plan(len(learned), config, seed=seed, name="reward")

    def measure(index: int) -> dict[str, float]:
        last = index + 1 == len(steps)
        return {"reward/held_out_accuracy": sum(correct_by_pair(model, held_out)) / len(held_out)} if last else {}

    with folder.step("reward", total=len(steps), shown=["reward/loss", "reward/accuracy"], data=data) as step:
        fit(
            step,
            modules={"reward_model": model},
            plan=steps,
            micro_batches=lambda rows: micro_batches(learned, own_share(rows), config.micro_batch_size),
            count=len,
            loss=lambda pairs: pair_loss(model, pairs),
            config=config,
            seed=seed,
            metric_prefix="reward",
            measure=measure,
        )
        normalise(model, learned)
        step.save_folder("model", model.save)
        rate = wilson(correct_by_pair(model, held_out))
        accuracy = {
            "accuracy": rate.mean,
            "accuracy_low": rate.low,
            "accuracy_high": rate.high,
            "num_held_out": rate.num,
        }
        num_steps = len(config.noises) * config.num_episodes * run_config.horizon
        amounts = {"num_pairs": len(learned), "num_steps": num_steps}
        audited = _audit(folder.path / "reward", model) if config.sees == "pictures" else {}
        step.finish({"reward_model": {**accuracy, "gain": float(model.gain), **amounts, **audited}})


OpenFootage = Callable[[], AbstractContextManager[Mapping[str, Footage]]]  # `learned` and `held_out`


def first_pairs(run: Path, teacher: Teacher, open_footage: OpenFootage) -> tuple[Pairs, Pairs]:
    """Ask for pairs to train on, and for pairs of other episodes to measure on.

    They are saved in DIR/reward/pairs, where a resumed run finds them. WaitingError while a person has questions.
    """
    step = run / "reward"
    pairs_folder = step / "pairs"
    if not is_kept(step, pairs_folder.name):
        nums = {"learned": teacher.config.num_pairs, "held_out": teacher.config.num_eval}
        judgements = (
            _of_a_person(run, open_footage, teacher, nums)
            if teacher.is_person
            else _of_a_function(open_footage, teacher, nums)
        )

        def write(partial_folder: Path) -> None:
            for name, pairs in zip(nums, judgements, strict=True):
                pairs.save(partial_folder / f"{name}.safetensors")

        keep_folder(step, pairs_folder.name, write)
    return load_pairs(pairs_folder / "learned.safetensors"), load_pairs(pairs_folder / "held_out.safetensors")


def _of_a_function(open_footage: OpenFootage, teacher: Teacher, nums: Mapping[str, int]) -> list[Pairs]:
    with open_footage() as footage:
        return [ask(footage[name].episodes(), teacher, num, name=name) for name, num in nums.items()]


def _of_a_person(run: Path, open_footage: OpenFootage, teacher: Teacher, nums: Mapping[str, int]) -> list[Pairs]:
    sheets = {name: human.sheet_folder(run, name) for name in nums}
    missing = share(lambda: [name for name in nums if not sheets[name].exists()])

    def write(footage: Mapping[str, Footage]) -> None:
        for name in missing:
            human.write_questions(sheets[name], footage[name], teacher, nums[name], name=name)

    if missing:
        with open_footage() as footage:
            share(lambda: write(footage))
    return share(lambda: human.read_pairs(list(sheets.values()), teacher.config.feedback))


def noisy_footage(
    env: VectorEnv, policy: Policy, config: RewardConfig, *, horizon: int, seed: int
) -> dict[str, Footage]:
    """Play the policy with noise on its actions; the episodes `learned` and `held_out` are disjoint."""
    noises, num = config.noises, config.num_episodes
    seeds = [chance.integer(seed, "wander", str(noise)) for noise in noises]
    sets = [
        play_with_noise(env, policy, noise, num=num, horizon=horizon, seed=noise_seed)
        for noise, noise_seed in zip(noises, seeds, strict=True)
    ]
    rows = range(len(sets) * num)
    held_out = [row % num % HELD_OUT == 0 for row in rows]
    return {
        "learned": Footage(env, sets, seeds, [row for row in rows if not held_out[row]]),
        "held_out": Footage(env, sets, seeds, [row for row in rows if held_out[row]]),
    }


@torch.no_grad()
def play_with_noise(env: VectorEnv, policy: Policy, noise: float, *, num: int, horizon: int, seed: int) -> Episodes:
    """Play the policy with noise of this standard deviation on its actions; `seed` determines starts and noise."""
    generator = torch.Generator().manual_seed(seed)
    draws = noise * torch.randn((horizon, num, policy.sizes.action), generator=generator)
    view = sight_of(env, policy)

    def agent_of(rows: slice) -> ActionFunction:
        agent = Agent(policy, view=view)
        return lambda step, observations, fresh: (agent(step, observations, fresh) + draws[step, rows]).clamp(-1.0, 1.0)

    return play_rows(env, agent_of, num, horizon=horizon, seed=seed)
