"""One scale for all rewards: mean 0, variance 1 over answers of the reference policy (Ziegler et al. 2019, section 2).

PPO's clips of rewards and values and its price of KL presuppose scores of about unit size. This run's reward model has
its scale in its head since step 2; other terms of ppo.reward get theirs before the first update.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from tercet.config.lm import LmConfig
from tercet.core.statistics import AS_IT_IS, ScoreScale, score_gain_and_bias
from tercet.errors import FailedError, InputError
from tercet.lm.data.examples import Example
from tercet.lm.models.roles import Policy
from tercet.lm.sampling.responses import Answers, answer_all
from tercet.lm.scoring import OWN, Score
from tercet.lm.text.encoder import Encoder
from tercet.runs.kept import is_kept, keep_file
from tercet.runs.progress import say
from tercet.runs.reading import read_json
from tercet.runs.rows import dump
from tercet.train.chance import generator

Scales = dict[str, ScoreScale]  # by the name of the term


def some_prompts(examples: Sequence[Example], config: LmConfig) -> list[Example]:
    """As many as reward.num_reference_samples, drawn by chance; none comes twice before each has come once."""
    chance = generator(config.seed, "reference")
    rows: list[int] = []
    while len(rows) < config.reward.num_reference_samples:
        rows += torch.randperm(len(examples), generator=chance).tolist()
    return [examples[row] for row in rows[: config.reward.num_reference_samples]]


def reference_answers(policy: Policy, encoder: Encoder, examples: Sequence[Example], config: LmConfig) -> list[Answers]:
    """Answers of a policy that has not learned from rewards; every call draws the same random numbers."""
    return answer_all(
        policy,
        encoder,
        some_prompts(examples, config),
        generator=generator(config.seed, "reference answers"),
        temperature=config.ppo.temperature,
        max_tokens=encoder.max_sampled_tokens,
        batch_size=config.eval.batch_size,
        title="reference answers",
    )


def find_scales(terms: Mapping[str, Score], answers: Sequence[Answers]) -> Scales:
    """The scale of each term over the answers, but for this run's reward model, which has its own.

    A term that gives 0 to every answer may be one that the policy does not earn yet: it stays as it is, and that is
    said. InputError where a term gives any other number to every answer, or numbers that cannot be scaled.
    """
    return {
        name: _scale_of(name, torch.cat([score(part) for part in answers]))
        for name, score in terms.items()
        if name != OWN
    }


def save_scales(scales: Scales, file: Path) -> None:
    """Keep them: a run that goes on must pay as it did before."""
    keep_file(file.parent, file.name, dump({name: asdict(scale) for name, scale in scales.items()}, indent=2) + "\n")


def load_scales(file: Path) -> Scales:
    """What `save_scales` wrote; FailedError where there is no such file."""
    remedy = f"remove {file.parent} to start ppo anew"
    if not is_kept(file.parent, file.name):
        raise FailedError(f"{file}: missing, and there is no scale of rewards to go on with; {remedy}")
    return {name: ScoreScale(**row) for name, row in read_json(file, dict, remedy).items()}


def _scale_of(name: str, scores: Float[Tensor, " n"]) -> ScoreScale:
    mean, num = float(scores.double().mean()), len(scores)
    if not scores.isfinite().all():
        raise FailedError(f"ppo.reward: {name} gave scores that are not finite to answers of the reference policy")
    try:
        scale = score_gain_and_bias(scores)
    except ValueError as error:
        low, high = float(scores.min()), float(scores.max())
        if low != high:
            raise InputError(
                f"ppo.reward: {name} gave scores of {low:.12g} to {high:.12g} to {num} answers of the reference "
                "policy; their differences are too small beside the scores, or too large, to be scaled. "
                "Take off what all have in common, or divide them all by one number"
            ) from error
        if mean != 0:
            raise InputError(
                f"ppo.reward: {name} gave {mean:g} to each of {num} answers of the reference policy; nothing can be "
                "learned from a constant. Let it tell answers apart, or give 0 for what it has no word on"
            ) from error
        say(
            f"ppo.reward: {name} gave 0 to each of {num} answers of the reference policy, so it is not scaled; "
            "nothing is learned from it until an answer earns something else"
        )
        return AS_IT_IS
    say(
        f"ppo.reward: {name} has mean {mean:.4g} and deviation {1 / scale.gain:.4g} over {num} answers of the "
        "reference policy; it is brought to 0 and 1 before its weight"
    )
    return scale
