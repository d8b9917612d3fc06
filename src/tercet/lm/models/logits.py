"""Logits in fp32 where all other products are in bf16.

A logit of 20 rounded to bf16 is known to 0.06, and so is the log-probability that follows from it: more than anything
else, this made what an answer is worth depend on the rows that were computed beside it.
"""

from functools import cache

import torch
from jaxtyping import Float
from torch import Tensor, nn


def keep_logits_in_fp32(head: nn.Module) -> None:
    """Let a language-model head, whose weights are in fp32, compute in fp32 under autocast too."""
    head.__class__ = _in_fp32(type(head))  # not a method of this object: its copies must compute by their own weights


@cache
def _in_fp32(kind: type[nn.Module]) -> type[nn.Module]:
    class Fp32Head(kind):
        def forward(self, states: Float[Tensor, "*b d"]) -> Float[Tensor, "*b v"]:
            """The logits."""
            with torch.autocast(states.device.type, enabled=False):
                return super().forward(states.float())

    return Fp32Head
