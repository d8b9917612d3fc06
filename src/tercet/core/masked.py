"""Means and variances over the positions where the mask is True. Other values, also nan and inf, have no effect."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tercet.core.precision import full_precision, where_fp64_is

EPSILON = 1e-8  # under the root of a variance


def zero_padding(x: Float[Tensor, "*shape"], mask: Bool[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Return `x` in fp32 where `mask` is True, and 0 elsewhere.

    It fills instead of multiplying because 0 * nan is nan. Mask the inputs of a formula, not its result: the gradient
    of a masked result is 0 times the derivative at the padding, which may be nan or inf.
    """
    return full_precision(x).masked_fill(~mask, 0.0)


def is_last(mask: Bool[Tensor, "b t"]) -> Bool[Tensor, "b t"]:
    """Return True at the last True of each row; a row without any has none."""
    return mask & (mask.flip(1).cumsum(1).flip(1) == 1)


def masked_mean(
    x: Float[Tensor, "*shape"], mask: Bool[Tensor, "*shape"], *, count: Tensor | int | float | None = None
) -> Float[Tensor, ""]:
    """Compute the mean of `x` where `mask` is True; nan if it is True nowhere.

    With `count`, the number of positions in the whole batch, the results of its micro-batches add up to the mean of the
    batch. A mean of micro-batch means would give the positions of a short micro-batch a larger weight.
    """
    # in fp64, the mean of equal fp32 numbers is exactly that number; in fp32, the rounding of their sum would look
    # like variance, and whitening would multiply it by up to 1e4
    total = where_fp64_is(zero_padding(x, mask)).sum(dtype=torch.float64)
    num = mask.sum() if count is None else count
    mean = total / (where_fp64_is(num) if isinstance(num, Tensor) else num)
    return mean.to(full_precision(x))  # its type and device


def masked_var(x: Float[Tensor, "*shape"], mask: Bool[Tensor, "*shape"]) -> Float[Tensor, ""]:
    """Compute the variance of `x` where `mask` is True, with the count n as divisor, not n - 1."""
    return masked_mean((zero_padding(x, mask) - masked_mean(x, mask)).square(), mask)


def whiten(x: Float[Tensor, "*shape"], mask: Bool[Tensor, "*shape"], *, center: bool = True) -> Float[Tensor, "*shape"]:
    """Scale `x` to variance 1 where `mask` is True, and shift it to mean 0 if `center`; 0 elsewhere.

    (x - mean) / sqrt(var + 1e-8), and with `center=False` the mean is added again, as the code of
    Ziegler et al. 2019 whitens rewards. Pass the whole batch, not a micro-batch.
    """
    mean = masked_mean(x, mask)
    whitened = (zero_padding(x, mask) - mean) * (masked_var(x, mask) + EPSILON).rsqrt()
    return zero_padding(whitened if center else whitened + mean, mask)
