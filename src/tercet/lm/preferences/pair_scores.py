"""Measure a reward model on preference pairs: accuracy, margin, correlation with length, calibration."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tercet.core.intervals import wilson
from tercet.core.statistics import AS_IT_IS, ScoreScale, calibration, correlation, wins


@dataclass(frozen=True)
class PairScores:
    """A reward model's scores of both responses of each pair, and their lengths in tokens."""

    chosen: Float[Tensor, " n"]
    rejected: Float[Tensor, " n"]
    chosen_lengths: Int[Tensor, " n"]
    rejected_lengths: Int[Tensor, " n"]


def summary(scores: PairScores, scale: ScoreScale = AS_IT_IS) -> dict[str, Any]:
    """Return accuracy with its interval, margin, mean scores (on `scale`), what length explains, and calibration.

    `length_accuracy` is that of preferring the longer response of every pair, or the shorter one if that is better.

    Calibration is that of the Bradley-Terry model, whose logit is the margin before `scale`.
    """
    margins = scores.chosen - scores.rejected
    by_length = float(wins((scores.chosen_lengths - scores.rejected_lengths).float()).mean())
    both = torch.cat([scores.chosen, scores.rejected])
    lengths = torch.cat([scores.chosen_lengths, scores.rejected_lengths]).float()
    return {
        "accuracy": wilson(wins(margins).tolist()).as_json("prompts"),
        "margin": float(margins.mean()) * scale.gain,
        "score_chosen": float(scores.chosen.mean()) * scale.gain + scale.bias,
        "score_rejected": float(scores.rejected.mean()) * scale.gain + scale.bias,
        "length_accuracy": max(by_length, 1 - by_length),
        "length_correlation": correlation(both, lengths),
        "calibration": [vars(one) for one in calibration(margins)],
    }
