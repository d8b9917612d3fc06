"""Run the three steps, their rounds, the evaluation and the report in order; finished steps are skipped."""

from collections.abc import Callable, Sequence
from functools import partial

from tercet.config.lm import LmConfig
from tercet.lm import compare, dpo, reward, sft
from tercet.lm import eval as evaluation
from tercet.lm.checks import check
from tercet.lm.data.digests import digests
from tercet.lm.ppo import step as ppo
from tercet.lm.scoring import REWARD_MODEL
from tercet.report import page
from tercet.runs.folder import RunFolder
from tercet.runs.once import check_data, is_up_to_date, run_once
from tercet.runs.ranks import share
from tercet.runs.rounds import kind_of, round_of, with_rounds

STEPS = {"sft": sft.run, "reward": reward.run, "ppo": ppo.run, "eval": evaluation.run}
DPO, COMPARE = "dpo", "compare"  # steps that a run has only if they were asked for
Run = Callable[[RunFolder, LmConfig], None]


def run(folder: RunFolder, config: LmConfig) -> None:
    """Run all steps that are not finished, DPO if it was started; the report is written after every step."""
    names = needed(config)
    _run(folder, config, _with_dpo(names) if share((folder.path / DPO).is_dir) else names)


def run_step(folder: RunFolder, config: LmConfig, name: str) -> None:
    """Run one step if it is not finished, and write the report."""
    _run(folder, config, [name])


def _run(folder: RunFolder, config: LmConfig, names: Sequence[str]) -> None:
    order = needed(config)
    check_data(folder, config, [*order, *(name for name in names if name not in order)], digests)
    if not all(is_up_to_date(folder, name, _order(order, name)) for name in names):
        check(config, names)
    for name in names:
        run_once(folder, config, name, steps_of(config.reward.num_rounds), _order(order, name), page.write)


def _order(names: Sequence[str], name: str) -> list[str]:
    """Return the steps in order, as far as they depend on `name` or it on them: DPO needs SFT alone."""
    if name == DPO:
        return [*(one for one in names if one == "sft"), DPO]
    if name == COMPARE:
        return [*_with_dpo(names)[:-1], COMPARE]
    return _with_dpo(names) if name in ("sft", "eval") else list(names)


def _with_dpo(names: Sequence[str]) -> list[str]:
    """Add DPO before the evaluation, which measures it too."""
    return [*names[:-1], DPO, names[-1]]


def steps_of(num_rounds: int) -> dict[str, Run]:
    """Return the steps by name, in order, then those that only a command begins.

    Before the evaluation, each round repeats steps 2 and 3.
    """

    def step(name: str) -> Run:
        number = round_of(name)
        return partial(STEPS[kind_of(name)], number=number) if number else STEPS[name]

    return {name: step(name) for name in with_rounds(STEPS, num_rounds)} | {DPO: dpo.run, COMPARE: compare.run}


def needed(config: LmConfig) -> list[str]:
    """List the steps of a run: no SFT with ppo.policy, no step 2 if ppo.reward does not use its reward model."""
    skipped = {"sft": bool(config.ppo.policy), "reward": REWARD_MODEL not in config.ppo.reward}
    return [name for name in with_rounds(STEPS, config.reward.num_rounds) if not skipped.get(name, False)]
