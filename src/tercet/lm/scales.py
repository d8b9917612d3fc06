"""Normalise rewards to mean 0 and variance 1 over responses of the reference policy (Ziegler et al. 2019, section 2).

PPO's reward clip, value clip and KL coefficient assume scores of about unit size. Step 2 has put the scale of this
run's reward model into its head. The other terms of ppo.reward get theirs before the first update.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from tercet.core.precision import where_fp64_is
from tercet.core.statistics import AS_IT_IS, ScoreScale, score_gain_and_bias
from tercet.errors import FailedError, InputError
from tercet.lm.data.examples import Example
from tercet.lm.sampling.responses import Responses
from tercet.lm.sampling.sampler import Sampler
from tercet.lm.scoring import REWARD_MODEL, Give, Given
from tercet.runs.integrity import read_json
from tercet.runs.intermediate import is_kept, keep_file
from tercet.runs.progress import say
from tercet.runs.rows import dump
from tercet.train.chance import generator

Scales = dict[str, ScoreScale]  # by name of the term


def draw_examples(examples: Sequence[Example], num: int, *, seed: int) -> list[Example]:
    """Draw `num` examples at random; none is drawn again before all have been drawn."""
    chance = generator(seed, "reference")
    rows: list[int] = []
    while len(rows) < num:
        rows += torch.randperm(len(examples), generator=chance).tolist()
    return [examples[row] for row in rows[:num]]


def reference_responses(sampler: Sampler, examples: Sequence[Example], num: int, *, seed: int) -> list[Responses]:
    """Sample `num` responses of a policy before PPO; every call draws the same random numbers."""
    drawn = draw_examples(examples, num, seed=seed)
    return sampler.sample_all(drawn, generator(seed, "reference answers"), title="reference responses")


def find_scales(terms: Mapping[str, Give], responses: Sequence[Responses]) -> Scales:
    """Compute the scale of each term over the responses, except for this run's reward model, which is normalised.

    A term that gives every response 0 may be a reward that the policy does not earn yet: it is not scaled, and this is
    reported. InputError if a term gives every response the same other number, or numbers that cannot be scaled.
    """
    return {
        name: _scale_of(name, torch.cat([_scores(give(part)) for part in responses]))
        for name, give in terms.items()
        if name != REWARD_MODEL
    }


def _scores(given: Given) -> Float[Tensor, " n"]:
    """Return the scores of the responses that have one."""
    return given.scores if given.is_missing is None else given.scores[~given.is_missing]


def save_scales(scales: Scales, file: Path) -> None:
    """Save the scales: a resumed run must use the same rewards."""
    keep_file(file.parent, file.name, dump({name: asdict(scale) for name, scale in scales.items()}, indent=2) + "\n")


def load_scales(file: Path) -> Scales:
    """Load what `save_scales` wrote; FailedError if the file is missing."""
    remedy = f"remove {file.parent} to start ppo again"
    if not is_kept(file.parent, file.name):
        raise FailedError(f"{file}: missing, so the rewards cannot be scaled as before; {remedy}")
    return {name: ScoreScale(**row) for name, row in read_json(file, dict, remedy).items()}


def _scale_of(name: str, scores: Float[Tensor, " n"]) -> ScoreScale:
    mean, num = float(where_fp64_is(scores).double().mean()), len(scores)
    if not num:
        raise InputError(
            f"ppo.reward: {name} gave no score to any response of the reference policy; nothing can be learned from it"
        )
    if not scores.isfinite().all():
        raise FailedError(f"ppo.reward: {name} gave scores that are not finite to responses of the reference policy")
    try:
        scale = score_gain_and_bias(scores)
    except ValueError as error:
        low, high = float(scores.min()), float(scores.max())
        if low != high:
            raise InputError(
                f"ppo.reward: {name} gave scores of {low:.12g} to {high:.12g} to {num} responses of the "
                "reference policy; their differences are too small beside the scores, or too large, to be scaled. "
                "Subtract a constant from all scores, or divide them by one"
            ) from error
        if mean != 0:
            raise InputError(
                f"ppo.reward: {name} gave {mean:g} to each of {num} responses of the reference policy; nothing can be "
                "learned from a constant. Return different scores, or 0 for a response that it does not judge"
            ) from error
        say(
            f"ppo.reward: {name} gave 0 to each of {num} responses of the reference policy, so it is not scaled; "
            "nothing is learned from it until a response gets another score"
        )
        return AS_IT_IS
    say(
        f"ppo.reward: {name} has mean {mean:.4g} and standard deviation {1 / scale.gain:.4g} over {num} responses of "
        "the reference policy; it is normalised to 0 and 1 before its weight applies"
    )
    return scale
