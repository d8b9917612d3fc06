"""In which precision the maths is done."""

import torch
from jaxtyping import Float
from torch import Tensor


def full_precision(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """`x` in fp32, whatever it came in; fp64 stays fp64.

    In bf16 a log-probability of -10 is known to +-0.03 at best, and a ratio to 3 %, where PPO clips at 20 %.
    """
    return x.to(torch.promote_types(x.dtype, torch.float32))
