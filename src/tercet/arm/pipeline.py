"""The three steps, evaluation and report, one after the other; steps that stand are skipped."""

from pathlib import Path

import torch

from tercet.arm import bc, ppo, reward
from tercet.arm import eval as evaluation
from tercet.arm.demonstrations.data import NONE, is_scripted, load_recording
from tercet.arm.demonstrations.digests import digests
from tercet.arm.play.agent import camera_view
from tercet.arm.play.environments import bounds_of, opened, sizes_of
from tercet.arm.play.episodes import play, repeats
from tercet.arm.play.video import HEIGHT, WIDTH
from tercet.arm.policies.kinds import new_policy
from tercet.arm.preferences.questions import asks_a_person
from tercet.arm.scoring import OWN, scorer
from tercet.arm.sim.cameras import cameras_of
from tercet.arm.sim.tasks.builtin import TASKS
from tercet.config.arm import ArmConfig
from tercet.config.functions import load_function
from tercet.report import page
from tercet.runs.folder import RunFolder
from tercet.runs.once import check_data, run_once, stands
from tercet.runs.progress import say

NO_REPEAT = (
    "reset(seed=...) begins elsewhere each time: stages are not tried on the same starts, and a run that was killed "
    "goes on to other numbers; let reset call super().reset(seed=seed), and draw from self.np_random alone"
)
BROKEN = (
    "step() gave numbers that are not finite while an episode was tried; wherever it does, the episode ends and the "
    "step earns 0"
)
STEPS = {"bc": bc.run, "reward": reward.run, "ppo": ppo.run, "eval": evaluation.run}


def run(folder: RunFolder, config: ArmConfig) -> None:
    """Everything that the run needs and has not done yet; the report is written after every step."""
    names = needed(config)
    check_data(folder, config, names, digests)
    if not all(stands(folder, name, names) for name in names):
        check(config)
    for name in names:
        run_once(folder, config, name, STEPS, names, page.write)


def check(config: ArmConfig) -> None:
    """InputError or FailedError where a later step would stop: better now than after minutes of training."""
    functions = [spec for spec in config.ppo.reward if ":" in spec]
    if OWN in config.ppo.reward and not asks_a_person(config):
        functions.append(config.reward.judge)
    for spec in functions:
        load_function(spec)
    with opened(config, 1) as env:
        if OWN in config.ppo.reward and asks_a_person(config):
            env.render(0, WIDTH, HEIGHT)  # type: ignore[call-arg]  # Gymnasium's takes nothing
        if config.bc.demonstrations != NONE and not is_scripted(config.bc.demonstrations):
            source, bounds = Path(config.bc.demonstrations), bounds_of(env)
            load_recording(source, sizes_of(env), config.bc, env=config.env, bounds=bounds)
        cameras = cameras_of(config.policy)
        camera_view(env, cameras)(torch.ones(1, dtype=torch.bool))  # FailedError without OpenGL
        if cameras:
            new_policy(sizes_of(env), config.policy, seed=config.seed)  # InputError on a backbone that is none
        terms = {name: weight for name, weight in config.ppo.reward.items() if name != OWN}
        foreign = config.env not in TASKS
        if foreign and not repeats(env, seed=config.seed):
            say(f"env={config.env}: {NO_REPEAT}")
        if terms or foreign:  # of another's a whole episode: what it says of success may come at the end
            nothing = torch.zeros(1, sizes_of(env).action)
            episodes = play(env, lambda step, seen, fresh: nothing, horizon=config.horizon if foreign else 2, seed=0)
            if foreign and episodes.infos["blown_up"].any():
                say(f"env={config.env}: {BROKEN}")
            if terms:
                scorer(terms, None)(episodes)


def run_step(folder: RunFolder, config: ArmConfig, name: str) -> None:
    """One step and the report, as far as they are not done yet."""
    names = needed(config)
    check_data(folder, config, names if name in names else [*names, name], digests)
    run_once(folder, config, name, STEPS, names, page.write)


def needed(config: ArmConfig) -> list[str]:
    """The steps that the run is made of: without demonstrations no cloning, without the learned reward no step 2."""
    skipped = {"bc": config.bc.demonstrations == NONE, "reward": OWN not in config.ppo.reward}
    return [name for name in STEPS if not skipped.get(name, False)]
