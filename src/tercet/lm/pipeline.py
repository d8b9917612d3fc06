"""The three steps, evaluation and report, one after the other; steps that stand are skipped."""

from tercet.config.functions import load_function
from tercet.config.lm import LmConfig
from tercet.errors import InputError
from tercet.lm import eval as evaluation
from tercet.lm import ppo, reward, sft
from tercet.lm.digests import digests
from tercet.lm.encoding import check_conversations
from tercet.lm.foreign import check_judge
from tercet.lm.scoring import OWN
from tercet.lm.splits import STEPS as STEP_NAMES
from tercet.lm.splits import flat, step_examples
from tercet.report import page
from tercet.runs.folder import RunFolder
from tercet.runs.once import check_data, run_once, stands

STEPS = {"sft": sft.run, "reward": reward.run, "ppo": ppo.run, "eval": evaluation.run}


def run(folder: RunFolder, config: LmConfig) -> None:
    """Everything that the run needs and has not done yet; the report is written after every step."""
    names = needed(config)
    check_data(folder, config, names, digests)
    if not all(stands(folder, name, names) for name in names):
        check(config)
    for name in names:
        run_once(folder, config, name, STEPS, names, page.write)


def check(config: LmConfig) -> None:
    """InputError where a later step would stop for want of input: better now than after hours of training."""
    for spec in (config.judge, *config.ppo.reward):
        if ":" in spec:
            load_function(spec)
    examples = step_examples(config.data, "ppo")
    if not any(examples.validation.values()):
        raise InputError(ppo.NO_VALIDATION)
    check_conversations(config, [name for name in STEP_NAMES if name in needed(config)])
    for name in config.ppo.reward:
        if name != OWN and ":" not in name:
            check_judge(name, config, [*flat(examples.train), *flat(examples.validation)])
    evaluation.check(config)


def run_step(folder: RunFolder, config: LmConfig, name: str) -> None:
    """One step and the report, as far as they are not done yet."""
    names = needed(config)
    check_data(folder, config, names if name in names else [*names, name], digests)
    run_once(folder, config, name, STEPS, names, page.write)


def needed(config: LmConfig) -> list[str]:
    """The steps that the run is made of: a ready policy needs no SFT, a reward without the own model no step 2."""
    skipped = {"sft": bool(config.ppo.policy), "reward": OWN not in config.ppo.reward}
    return [name for name in STEPS if not skipped.get(name, False)]
