"""Run the three steps, their rounds, the evaluation and the report in order; finished steps are skipped."""

from collections.abc import Callable
from functools import partial

from tercet.config.lm import LmConfig
from tercet.lm import eval as evaluation
from tercet.lm import ppo, reward, sft
from tercet.lm.checks import check
from tercet.lm.data.digests import digests
from tercet.lm.scoring import REWARD_MODEL
from tercet.report import page
from tercet.runs.folder import RunFolder
from tercet.runs.once import check_data, is_up_to_date, run_once
from tercet.runs.rounds import kind_of, round_of, with_rounds

STEPS = {"sft": sft.run, "reward": reward.run, "ppo": ppo.run, "eval": evaluation.run}
Run = Callable[[RunFolder, LmConfig], None]


def run(folder: RunFolder, config: LmConfig) -> None:
    """Run all steps that are not finished; the report is written after every step."""
    names = needed(config)
    check_data(folder, config, names, digests)
    if not all(is_up_to_date(folder, name, names) for name in names):
        check(config, names)
    for name in names:
        run_once(folder, config, name, steps_of(config.reward.num_rounds), names, page.write)


def run_step(folder: RunFolder, config: LmConfig, name: str) -> None:
    """Run one step if it is not finished, and write the report."""
    names = needed(config)
    check_data(folder, config, names if name in names else [*names, name], digests)
    if not is_up_to_date(folder, name, names):
        check(config, [name])
    run_once(folder, config, name, steps_of(config.reward.num_rounds), names, page.write)


def steps_of(num_rounds: int) -> dict[str, Run]:
    """Return the steps by name, in order: before the evaluation, each round repeats steps 2 and 3."""

    def step(name: str) -> Run:
        number = round_of(name)
        return partial(STEPS[kind_of(name)], number=number) if number else STEPS[name]

    return {name: step(name) for name in with_rounds(STEPS, num_rounds)}


def needed(config: LmConfig) -> list[str]:
    """List the steps of a run: no SFT with ppo.policy, no step 2 if ppo.reward does not use its reward model."""
    skipped = {"sft": bool(config.ppo.policy), "reward": REWARD_MODEL not in config.ppo.reward}
    return [name for name in steps_of(config.reward.num_rounds) if not skipped.get(name, False)]
