"""Statistics of a critic and a reward model, and the scale of a reward model."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tercet.core.masked import masked_var, zero_padding
from tercet.core.precision import where_fp64_is


def explained_variance(
    values: Float[Tensor, "*shape"], returns: Float[Tensor, "*shape"], mask: Bool[Tensor, "*shape"]
) -> Float[Tensor, ""]:
    """Compute 1 - var(returns - values) / var(returns): 1 for a perfect critic, 0 for a constant, negative if worse.

    If all returns are equal, the result is 1 if the critic's error is a constant, else 0.
    """
    residual = masked_var(zero_padding(returns, mask) - zero_padding(values, mask), mask)
    total = masked_var(returns, mask)
    return torch.where(total > 0, 1.0 - residual / total, (residual == 0).to(total.dtype))


def wins(margins: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Return 1 if a margin is above 0, 0.5 for a tie, 0 if it is below 0, in fp32."""
    return (margins > 0).float() + 0.5 * (margins == 0).float()


def ranking_accuracy(scores: Float[Tensor, " n"], is_good: Bool[Tensor, " n"]) -> float | None:
    """Compute the share of pairs of a good and a bad row in which the good one has the higher score; ties count half.

    This is the area under the ROC curve: 0.5 is chance. None if all rows are good, or none is.
    """
    good, bad = scores[is_good], scores[~is_good]
    if not len(good) or not len(bad):
        return None
    return float(wins(good[:, None] - bad[None, :]).mean())


def disagreement(margins: Float[Tensor, "models n"]) -> Float[Tensor, " n"]:
    """Compute how much models disagree on pairs, from the margin that each gives to the first of a pair.

    It is the standard deviation over the models of the probability that the first is better (Christiano et al. 2017,
    section 2.2.4). It is 0 for a single model.
    """
    return margins.sigmoid().std(0, unbiased=False)


def correlation(a: Float[Tensor, " n"], b: Float[Tensor, " n"]) -> float:
    """Compute Pearson's correlation; 0 if one of the two is constant."""
    a, b = (where_fp64_is(x).double() for x in (a, b))
    a, b = a - a.mean(), b - b.mean()
    norm = float(a.norm() * b.norm())
    return float(a @ b) / norm if norm else 0.0


@dataclass(frozen=True)
class CalibrationBin:
    """The mean predicted and observed accuracy of `num` pairs."""

    predicted: float
    observed: float
    num: int


def calibration(margins: Float[Tensor, " n"], num_bins: int = 5) -> list[CalibrationBin]:
    """Compare the predicted accuracy, sigmoid(|margin|), with the observed one, in bins of equal count.

    The prediction is that of the Bradley-Terry model; the bins come in the order of the predictions.
    """
    predicted, observed = margins.abs().sigmoid(), wins(margins)
    bins = predicted.argsort().tensor_split(min(num_bins, len(margins)))
    return [CalibrationBin(float(predicted[rows].mean()), float(observed[rows].mean()), len(rows)) for rows in bins]


@dataclass(frozen=True)
class ScoreScale:
    """gain * score + bias has mean 0 and variance 1 over the scores from which the scale was computed."""

    gain: float
    bias: float


AS_IT_IS = ScoreScale(gain=1.0, bias=0.0)
ROUNDING = 2 * torch.finfo(torch.float32).eps  # a standard deviation below this share of the mean counts as 0


def score_gain_and_bias(scores: Float[Tensor, " n"]) -> ScoreScale:
    """Compute gain 1 / sigma and bias -mu / sigma of the reference policy's scores (Ziegler et al. 2019, section 2).

    Raise ValueError if they are all equal (except for rounding) or not all finite.
    """
    scores = where_fp64_is(scores.detach()).double()
    mean = scores.mean().item()
    sigma = (scores - mean).square().mean().sqrt().item()
    if not ROUNDING * abs(mean) < sigma < float("inf"):  # nan fails both
        raise ValueError(f"scores cannot be normalised: {scores.numel()} of mean {mean}, standard deviation {sigma}")
    return ScoreScale(gain=1.0 / sigma, bias=-mean / sigma)
