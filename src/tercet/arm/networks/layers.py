"""Layers that several networks use: the scale of inputs, and a perceptron."""

from itertools import pairwise

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from tercet.core.precision import where_fp64_is
from tercet.core.running import merge_moments

MIN_STD = 1e-2  # smallest standard deviation of actions and images
ROUNDING = 1e-6  # a number that varies less, relative to its size, is constant up to rounding
MIN_SIZE = 1e-12  # smaller numbers are rounding errors, whatever their unit
IGNORED_STD = 1e30  # deviation of a number that was always 0: its scale is unknown, so it is scaled to 0
MAX_SCALED = 10.0  # scaled observations are clipped to this many standard deviations


class Scaled(nn.Module):
    """Standardise observations: subtract the mean and divide by the standard deviation. Both are saved buffers."""

    mean: Tensor
    std: Tensor
    moving_buffers: tuple[str, ...] = ()  # both, if they follow the observations of training (`train/learned.py`)

    def __init__(self, size: int, *, limit: float = MAX_SCALED) -> None:
        super().__init__()
        self.limit = limit
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("std", torch.ones(size))

    def measure(self, observations: Float[Tensor, "*shape o"]) -> None:
        """Set mean and standard deviation from these observations. The result does not depend on their units.

        The deviation of a number that never varies is its size, so that a later change is not magnified. A number that
        is always 0 has no size and is ignored (see `ignored`).
        """
        rows = where_fp64_is(observations.flatten(0, -2)).double()
        self._set(rows.mean(0), rows.std(0, unbiased=False), rows.abs().amax(0))

    def follow(self, observations: Float[Tensor, "*shape o"], *, share: float) -> None:
        """Merge the scale of these observations with that of all earlier ones; `share` is theirs among all.

        The rules of `measure` for numbers that never varied hold here too.
        """
        rows = observations.flatten(0, -2).cpu().double()
        mean, std = self.mean.cpu().double(), self.std.cpu().double()
        mean, variance = merge_moments(
            mean,
            torch.where(std < IGNORED_STD, std, 0.0).square(),
            rows.mean(0),
            rows.var(0, unbiased=False),
            share=share,
        )
        self._set(mean, variance.sqrt(), torch.maximum(mean.abs(), rows.abs().amax(0)))

    def _set(self, mean: Float[Tensor, " o"], std: Float[Tensor, " o"], size: Float[Tensor, " o"]) -> None:
        """Set both; `size` is that of the largest value."""
        varies = std > (ROUNDING * size).clamp(min=MIN_SIZE)
        self.mean.copy_(mean)
        self.std.copy_(torch.where(varies, std, torch.where(size > MIN_SIZE, size, IGNORED_STD)))

    def measure_with_min_std(self, values: Float[Tensor, "*shape o"]) -> None:
        """Set both from actions or images. Their units are known, so the deviation is at least MIN_STD."""
        rows = where_fp64_is(values.flatten(0, -2)).double()
        self.mean.copy_(rows.mean(0))
        self.std.copy_(rows.std(0, unbiased=False).clamp(min=MIN_STD))

    def leave(self, entries: Bool[Tensor, " o"]) -> None:
        """Do not scale these entries."""
        self.mean[entries], self.std[entries] = 0.0, 1.0

    def ignored(self) -> list[int]:
        """Return the indices of the numbers that are ignored, because they were always 0."""
        return (self.std >= IGNORED_STD).nonzero().flatten().tolist()

    def forward(self, observations: Float[Tensor, "*shape o"]) -> Float[Tensor, "*shape o"]:
        """Return observations with mean about 0 and standard deviation about 1."""
        return ((observations - self.mean) / self.std).clamp(-self.limit, self.limit)


def perceptron(size_in: int, size_out: int, hidden_size: int, num_layers: int, *, gain: float) -> nn.Sequential:
    """Create tanh layers with orthogonal weights, the last layer's times `gain` (Huang et al. 2022, detail 2)."""
    sizes = [size_in, *[hidden_size] * num_layers]
    layers: list[nn.Module] = []
    for before, after in pairwise(sizes):
        layers += [_layer(before, after, 2.0**0.5), nn.Tanh()]
    return nn.Sequential(*layers, _layer(sizes[-1], size_out, gain))


def _layer(size_in: int, size_out: int, gain: float) -> nn.Linear:
    layer = nn.Linear(size_in, size_out)
    nn.init.orthogonal_(layer.weight, gain)
    nn.init.zeros_(layer.bias)
    return layer
