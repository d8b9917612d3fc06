"""Run the three steps, evaluation and report; skip steps that are done."""

import torch

from tercet.arm import bc, compare, ppo, reward
from tercet.arm import eval as evaluation
from tercet.arm.demonstrations.data import NONE, is_scripted, load_recording, recording_of
from tercet.arm.demonstrations.digests import digests
from tercet.arm.play.agent import camera_view
from tercet.arm.play.environments import EnvFactory, bounds_of, sizes_of
from tercet.arm.play.episodes import play, repeats
from tercet.arm.play.video import HEIGHT, WIDTH
from tercet.arm.policies.kinds import new_policy
from tercet.arm.preferences.questions import asks_person
from tercet.arm.scoring import REWARD_MODEL, scorer
from tercet.arm.sim.cameras import cameras_of
from tercet.arm.sim.tasks.builtin import task_of
from tercet.arm.stages import from_checkpoint
from tercet.config.arm import ArmConfig
from tercet.config.functions import load_function
from tercet.report import page
from tercet.runs.folder import RunFolder
from tercet.runs.once import check_data, is_up_to_date, run_once
from tercet.runs.progress import say
from tercet.runs.ranks import share
from tercet.train.device import device_of

NO_REPEAT = (
    "reset(seed=...) gives a different start each time, so stages are not evaluated on the same starts and a resumed "
    "run gives other numbers; let reset call super().reset(seed=seed), and draw only from self.np_random"
)
NOT_FINITE = (
    "step() returned numbers that are not finite in a test episode; each time it does, the episode ends and the reward "
    "of the step is 0"
)
STEPS = {"bc": bc.run, "reward": reward.run, "ppo": ppo.run, "eval": evaluation.run}
COMPARE = "compare"  # a step that only the runs of a comparison have, in place of the evaluation


def run(folder: RunFolder, config: ArmConfig) -> None:
    """Run all steps that are not done yet; the report is written after every step."""
    names = needed(config)
    check_data(folder, config, names, digests)
    if not all(is_up_to_date(folder, name, names) for name in names):
        share(lambda: check(config))  # rank 0 alone: it may make an environment of the user
    for name in names:
        run_once(folder, config, name, STEPS, names, page.write)


def check(config: ArmConfig) -> None:
    """Raise InputError or FailedError if a later step would stop with an error, before minutes of training."""
    device_of(config.device)
    functions = [spec for spec in config.ppo.reward if ":" in spec]
    learns_reward = REWARD_MODEL in config.ppo.reward
    if learns_reward and not asks_person(config.reward):
        functions.append(config.reward.judge)
    for spec in functions:
        load_function(spec)
    with EnvFactory.of(config).open(1) as env:
        if learns_reward and asks_person(config.reward):
            env.render(0, WIDTH, HEIGHT)  # type: ignore[call-arg]  # Gymnasium's render takes no arguments
        if config.bc.demonstrations != NONE and not is_scripted(config.bc.demonstrations):
            bounds, itself = bounds_of(env), config.policy.sees == "itself"
            load_recording(
                recording_of(config.bc), sizes_of(env), config.bc, env=config.env, bounds=bounds, sees_itself=itself
            )
        if config.bc.policy:
            from_checkpoint(config.bc, sizes_of(env), config.policy)
        cameras = cameras_of(config.policy)
        camera_view(env, cameras)(torch.ones(1, dtype=torch.bool))  # FailedError without OpenGL
        if cameras and not config.bc.policy:
            new_policy(sizes_of(env), config.policy, seed=config.seed)  # InputError if the backbone cannot be loaded
        terms = {name: weight for name, weight in config.ppo.reward.items() if name != REWARD_MODEL}
        foreign = task_of(config.env) is None
        if foreign and not repeats(env, seed=config.seed):
            say(f"env={config.env}: {NO_REPEAT}")
        if terms or foreign:  # a whole episode of a foreign environment, which may report success only at the end
            zeros = torch.zeros(1, sizes_of(env).action)
            episodes = play(env, lambda step, states, fresh: zeros, horizon=config.horizon if foreign else 2, seed=0)
            if foreign and episodes.infos["blown_up"].any():
                say(f"env={config.env}: {NOT_FINITE}")
            if terms:
                scorer(terms, None)(episodes)


def run_step(folder: RunFolder, config: ArmConfig, name: str) -> None:
    """Run one step, unless it is done, and write the report."""
    names = needed(config)
    order = [*names[:-1], COMPARE] if name == COMPARE else names
    check_data(folder, config, order if name in order else [*order, name], digests)
    run_once(folder, config, name, STEPS | {COMPARE: compare.run}, order, page.write)


def needed(config: ArmConfig) -> list[str]:
    """Return the steps of the run: no bc without demonstrations, no reward step without a learned reward."""
    skipped = {"bc": config.bc.demonstrations == NONE, "reward": REWARD_MODEL not in config.ppo.reward}
    return [name for name in STEPS if not skipped.get(name, False)]
