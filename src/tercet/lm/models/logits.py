"""Compute logits in fp32 when all other products are in bf16 or fp16.

A logit of 20 rounded to bf16 has an error of up to 0.06, and so has its log-probability. This was the largest cause of
log-probabilities that depend on the other rows of the batch.
"""

from functools import cache

import torch
from jaxtyping import Float
from torch import Tensor, nn


def keep_logits_in_fp32(head: nn.Module) -> None:
    """Make a language-model head with fp32 weights compute in fp32 under autocast too."""
    head.__class__ = _in_fp32(type(head))  # a class, not a bound method: copies of the head must use their own weights


@cache
def _in_fp32(kind: type[nn.Module]) -> type[nn.Module]:
    class Fp32Head(kind):
        def forward(self, states: Float[Tensor, "*b d"]) -> Float[Tensor, "*b v"]:
            """Compute the logits in fp32."""
            with torch.autocast(states.device.type, enabled=False):
                return super().forward(states.float())

    return Fp32Head
