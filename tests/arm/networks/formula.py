"""Numbers that a formula gives from a name: the same weights here and in another's network, without a file of them."""

import torch
from torch import Tensor


def values(name: str, shape: tuple[int, ...]) -> Tensor:
    """Between -1 and 1, in no visible order."""
    places = torch.arange(torch.Size(shape).numel(), dtype=torch.float64) + 100 * sum(map(ord, name))
    return ((places * 12.9898).sin() * 43758.5453).frac().float().reshape(shape)


def weights(shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """A state dict of these shapes, through which numbers of unit scale stay so."""
    return {name: _weight(name, shape) for name, shape in shapes.items()}


def _weight(name: str, shape: tuple[int, ...]) -> Tensor:
    drawn = values(name, shape)
    if len(shape) > 1:
        return drawn * (3 * shape[0] / drawn.numel()) ** 0.5
    if name.endswith("running_var"):
        return 1 + drawn.square()
    return 1 + 0.1 * drawn if name.endswith("weight") else 0.1 * drawn
