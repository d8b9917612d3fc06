"""The precision of the maths."""

import torch
from jaxtyping import Float
from torch import Tensor


def full_precision(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Return `x` in fp32, or in fp64 if it is fp64.

    In bf16, a log-probability of -10 has an error of up to 0.03, and a ratio one of 3 %, while PPO clips at 20 %.
    """
    return x.to(torch.promote_types(x.dtype, torch.float32))
