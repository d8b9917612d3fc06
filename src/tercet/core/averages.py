"""How the losses of tokens become one number: the mean over tokens, over answers, or over a fixed length.

A loss is a sum of weighted tokens, divided by a count of the whole optimizer step, so that micro-batches add up.
"""

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Bool, Float
from torch import Tensor

MeanOver = Literal["tokens", "responses", "max_length"]


@dataclass(frozen=True)
class Weights:
    """The weight of each token's loss, and what it adds to the count by which their sum is divided; 0 at padding."""

    loss: Float[Tensor, "b t"]
    count: Float[Tensor, "b t"]


def weights(mask: Bool[Tensor, "b t"], *, mean_over: MeanOver, max_length: int) -> Weights:
    """Return the weights of a mean over tokens, responses or responses of the longest allowed length.

    tokens: sum of all losses / number of tokens (PPO; DAPO, Yu et al. 2025, arXiv:2503.14476).
    responses: mean over the tokens of each response, then over responses (GRPO); tokens of long responses count less.
    max_length: sum of all losses / (number of responses * max_length) (Dr. GRPO, Liu et al. 2025, arXiv:2503.20783).
    """
    ones = mask.float()
    if mean_over == "tokens":
        return Weights(ones, ones)
    shares = ones / ones.sum(1, keepdim=True).clamp(min=1.0)  # they sum to 1 over a response
    return Weights(shares if mean_over == "responses" else ones / max_length, shares)
