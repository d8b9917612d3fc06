"""Step 2, judge: an ensemble of reward models from what a teacher says of segments (Christiano et al. 2017)."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from gymnasium.vector import VectorEnv

from tercet.arm.play.agent import Agent, camera_view
from tercet.arm.play.environments import opened
from tercet.arm.play.episodes import ActionFunction, Episodes, play_rows
from tercet.arm.play.footage import Footage
from tercet.arm.policies.roles import Policy
from tercet.arm.preferences import human
from tercet.arm.preferences.ensemble import new_ensemble, normalise, pair_loss, parts_of, right
from tercet.arm.preferences.pairs import Pairs, load_pairs
from tercet.arm.preferences.questions import ask, asks_a_person
from tercet.arm.stages import start_policy
from tercet.config.arm import ArmConfig
from tercet.core.intervals import wilson
from tercet.runs.folder import RunFolder
from tercet.runs.kept import is_kept, keep_folder
from tercet.train import chance
from tercet.train.fit import fit, shuffled_plan

HELD_OUT = 10  # one in so many episodes is held out


def run(folder: RunFolder, config: ArmConfig) -> None:
    """Ask about segments, learn the reward, measure it on held-out judgements, and keep it in DIR/reward/model."""
    learned, held_out = first_pairs(folder, config)
    held_out = held_out.decided()
    model = new_ensemble(learned, config.reward, seed=config.seed)
    steps = shuffled_plan(len(learned), config.reward, seed=config.seed, name="reward")

    def measure(index: int) -> dict[str, float]:
        last = index + 1 == len(steps)
        return {"reward/held_out_accuracy": sum(right(model, held_out)) / len(held_out)} if last else {}

    with folder.step("reward", total=len(steps), shown=["reward/loss", "reward/accuracy"]) as step:
        fit(
            step,
            modules={"reward_model": model},
            plan=steps,
            micro_batches=lambda rows: parts_of(learned, rows, config.reward.micro_batch_size),
            count=len,
            loss=lambda pairs: pair_loss(model, pairs),
            config=config.reward,
            seed=config.seed,
            metric_prefix="reward",
            measure=measure,
        )
        normalise(model, learned)
        step.save_folder("model", model.save)
        rate = wilson(right(model, held_out))
        accuracy = {
            "accuracy": rate.mean,
            "accuracy_low": rate.low,
            "accuracy_high": rate.high,
            "num_held_out": rate.num,
        }
        num_steps = len(config.reward.noises) * config.reward.num_episodes * config.horizon
        asked = {"num_pairs": len(learned), "num_steps": num_steps}
        step.finish({"reward_model": {**accuracy, "gain": float(model.gain), **asked}})


def first_pairs(folder: RunFolder, config: ArmConfig) -> tuple[Pairs, Pairs]:
    """Pairs to learn from, and pairs of other episodes to measure on; WaitingError while a person is asked.

    They are kept in DIR/reward/pairs, from where a run that goes on takes them.
    """
    step = folder.path / "reward"
    place = step / "pairs"
    if not is_kept(step, place.name):
        wanted = {"learned": config.reward.num_pairs, "held_out": config.reward.num_eval}
        answers = _of_a_person if asks_a_person(config) else _of_a_function
        found = dict(zip(wanted, answers(folder, config, wanted), strict=True))

        def write(partial: Path) -> None:
            for name, pairs in found.items():
                pairs.save(partial / f"{name}.safetensors")

        keep_folder(step, place.name, write)
    return load_pairs(place / "learned.safetensors"), load_pairs(place / "held_out.safetensors")


def _of_a_function(folder: RunFolder, config: ArmConfig, wanted: Mapping[str, int]) -> list[Pairs]:
    with _wandering(folder, config) as footage:
        return [ask(footage[name].episodes(), config, num, name=name) for name, num in wanted.items()]


def _of_a_person(folder: RunFolder, config: ArmConfig, wanted: Mapping[str, int]) -> list[Pairs]:
    places = {name: human.place(folder.path, name) for name in wanted}
    missing = [name for name in wanted if not places[name].exists()]
    if missing:
        with _wandering(folder, config) as footage:
            for name in missing:
                human.put(places[name], footage[name], config, wanted[name], name=name)
    return human.told(list(places.values()))


@contextmanager
def _wandering(folder: RunFolder, config: ArmConfig) -> Iterator[dict[str, Footage]]:
    """Episodes of the policy with noise on its actions, apart: to learn from, and to measure on."""
    policy, noises = start_policy(folder, config), config.reward.noises
    seeds = [chance.integer(config.seed, "wander", str(noise)) for noise in noises]
    with folder.timed("reward", "pairs"), opened(config, config.reward.num_episodes) as env:
        sets = [wander(env, policy, noise, config, seed) for noise, seed in zip(noises, seeds, strict=True)]
        num = config.reward.num_episodes
        rows = range(len(sets) * num)
        held_out = [row % num % HELD_OUT == 0 for row in rows]
        yield {
            "learned": Footage(env, sets, seeds, [row for row in rows if not held_out[row]]),
            "held_out": Footage(env, sets, seeds, [row for row in rows if held_out[row]]),
        }


@torch.no_grad()
def wander(env: VectorEnv, policy: Policy, noise: float, config: ArmConfig, seed: int) -> Episodes:
    """Episodes of the policy with noise of that deviation on its actions."""
    num = config.reward.num_episodes
    shape = (config.horizon, num, policy.sizes.action)
    draws = noise * torch.randn(shape, generator=chance.generator(config.seed, "wander", str(noise)))
    view = camera_view(env, policy.cameras)

    def agent_of(rows: slice) -> ActionFunction:
        acting = Agent(policy, view=view)
        return lambda step, seen, fresh: (acting(step, seen, fresh) + draws[step, rows]).clamp(-1.0, 1.0)

    return play_rows(env, agent_of, num, horizon=config.horizon, seed=seed)
