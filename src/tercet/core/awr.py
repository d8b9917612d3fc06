"""Weights of advantage-weighted regression."""

import math

from jaxtyping import Float
from torch import Tensor

from tercet.core.precision import full_precision


def advantage_weights(advantages: Float[Tensor, "*shape"], *, beta: float, cap: float) -> Float[Tensor, "*shape"]:
    """Compute min(exp(A / beta), cap) of each action: how much a policy imitates it (Peng et al. 2019, eq. 9).

    A small `beta` imitates the best actions alone, and a large one all alike. The cap bounds the weight of one action.
    """
    return (full_precision(advantages) / beta).clamp(max=math.log(cap)).exp()  # before exp, which could overflow
