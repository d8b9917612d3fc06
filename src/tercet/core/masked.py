"""Means and variances over the positions that count; what lies elsewhere, nan and inf included, has no effect."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tercet.core.precision import full_precision

EPSILON = 1e-8  # under the root of a variance


def kept(x: Float[Tensor, "*shape"], mask: Bool[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """`x` in fp32 where `mask` is True, and 0 elsewhere.

    A fill and not a product, since 0 * nan is nan; and in front of a formula rather than behind it, since the
    gradient of a masked result is 0 times whatever the formula made of the junk.
    """
    return full_precision(x).masked_fill(~mask, 0.0)


def is_last(mask: Bool[Tensor, "b t"]) -> Bool[Tensor, "b t"]:
    """True at the last True of each row; a row without any has none."""
    return mask & (mask.flip(1).cumsum(1).flip(1) == 1)


def masked_mean(
    x: Float[Tensor, "*shape"], mask: Bool[Tensor, "*shape"], *, count: Tensor | int | float | None = None
) -> Float[Tensor, ""]:
    """Mean of `x` where `mask` is True; nan where it is True nowhere.

    With `count`, the number of positions in the whole batch, the results of its micro-batches add up to the batch's
    mean; a mean of micro-batch means would weigh the positions of a short micro-batch more than those of a long one.
    """
    # in fp64 the mean of equal fp32 numbers is that number exactly; in fp32 the rounding of their sum would pass for
    # variance, and whitening would blow it up by 1e4
    mean = kept(x, mask).sum(dtype=torch.float64) / (mask.sum() if count is None else count)
    return mean.to(full_precision(x).dtype)


def masked_var(x: Float[Tensor, "*shape"], mask: Bool[Tensor, "*shape"]) -> Float[Tensor, ""]:
    """Variance of `x` where `mask` is True, divided by the count (not by one less)."""
    return masked_mean((kept(x, mask) - masked_mean(x, mask)).square(), mask)


def whiten(x: Float[Tensor, "*shape"], mask: Bool[Tensor, "*shape"], *, center: bool = True) -> Float[Tensor, "*shape"]:
    """`x` brought to variance 1 where `mask` is True, and to mean 0 if `center`; 0 elsewhere.

    (x - mean) / sqrt(var + 1e-8), and with `center=False` the mean is added again, as the code of
    Ziegler et al. 2019 whitens rewards. The statistics are those of `x`: give it the whole batch, not a micro-batch.
    """
    mean = masked_mean(x, mask)
    whitened = (kept(x, mask) - mean) * (masked_var(x, mask) + EPSILON).rsqrt()
    return kept(whitened if center else whitened + mean, mask)
