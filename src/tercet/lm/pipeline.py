"""The three steps, evaluation and report, one after the other; steps that stand are skipped."""

from tercet.config.lm import LmConfig
from tercet.lm import eval as evaluation
from tercet.lm import ppo, reward, sft
from tercet.lm.checks import check
from tercet.lm.data.digests import digests
from tercet.lm.scoring import OWN
from tercet.report import page
from tercet.runs.folder import RunFolder
from tercet.runs.once import check_data, run_once, stands

STEPS = {"sft": sft.run, "reward": reward.run, "ppo": ppo.run, "eval": evaluation.run}


def run(folder: RunFolder, config: LmConfig) -> None:
    """Everything that the run needs and has not done yet; the report is written after every step."""
    names = needed(config)
    check_data(folder, config, names, digests)
    if not all(stands(folder, name, names) for name in names):
        check(config, names)
    for name in names:
        run_once(folder, config, name, STEPS, names, page.write)


def run_step(folder: RunFolder, config: LmConfig, name: str) -> None:
    """One step and the report, as far as they are not done yet."""
    names = needed(config)
    check_data(folder, config, names if name in names else [*names, name], digests)
    if not stands(folder, name, names):
        check(config, [name])
    run_once(folder, config, name, STEPS, names, page.write)


def needed(config: LmConfig) -> list[str]:
    """The steps that the run is made of: a ready policy needs no SFT, a reward without the own model no step 2."""
    skipped = {"sft": bool(config.ppo.policy), "reward": OWN not in config.ppo.reward}
    return [name for name in STEPS if not skipped.get(name, False)]
