"""What an engine is to the sampler: another program that samples from its own copy of the policy's weights."""

from collections.abc import Collection, Sequence
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from tercet.lm.sampling.generate import SampledTokens


@runtime_checkable  # for the run-time type checks of the tests
class Engine(Protocol):
    """Sample from the current weights of the policy that the engine was made for."""

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        end_ids: Collection[int],
        max_tokens: int,
        temperature: float,
        generator: torch.Generator,
    ) -> SampledTokens:
        """Sample one response per prompt as `lm/sampling/generate.py::generate` does, on the policy's device.

        The log-probabilities are those of the engine at this temperature. `generator` gives the engine its seeds;
        whether equal seeds give equal responses depends on the engine.
        """
        ...


def sampled_tokens(
    ids: Sequence[Sequence[int]],
    logprobs: Sequence[Sequence[float]],
    *,
    end_ids: Collection[int],
    device: torch.device,
) -> SampledTokens:
    """Pad the tokens of responses, each with the token that ended it, and their log-probabilities."""
    width, fill = max(map(len, ids)), min(end_ids)
    mask = [[t < len(row) for t in range(width)] for row in ids]
    return SampledTokens(
        torch.tensor([[*row, *[fill] * (width - len(row))] for row in ids], device=device),
        _padded(logprobs, width).to(device),
        torch.tensor(mask, device=device),
        torch.tensor([row[-1] in end_ids for row in ids], device=device),
    )


def _padded(rows: Sequence[Sequence[float]], width: int) -> Float[Tensor, "b t"]:
    return torch.tensor([[*row, *[0.0] * (width - len(row))] for row in rows], dtype=torch.float32)
