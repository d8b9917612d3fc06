"""Best-of-n: sample several responses to each prompt, and keep the one with the highest score."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from tercet.lm.data.examples import Example
from tercet.lm.sampling.responses import Responses
from tercet.lm.sampling.sampler import Sampler


def best_of_n(
    sampler: Sampler,
    examples: Sequence[Example],
    score: Callable[[Responses], Float[Tensor, " b"]],
    generator: torch.Generator,
    *,
    n: int,
) -> Responses:
    """Return the response of the highest score among `n` to each example's prompt; the first of equal ones."""
    repeated = [example for example in examples for _ in range(n)]
    title = f"best of {n}: held-out prompts"
    responses = Responses.joined(sampler.sample_all(repeated, generator, title=title))
    best = score(responses).view(-1, n).argmax(1).cpu()
    return responses.rows(best + n * torch.arange(len(examples)))
