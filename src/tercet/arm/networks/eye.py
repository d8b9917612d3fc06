"""A small convolutional encoder of pictures, which says what is where."""

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

NUM_CHANNELS = 32
NUM_FEATURES = 3 * NUM_CHANNELS  # of a picture


class Eye(nn.Module):
    """Three convolutions, then a spatial softmax (Levine et al. 2016, section 5.2).

    The features of a channel are the place x, y of its activation, from -1 to 1, and the mean activation at that place.
    A place moves with what is seen, also by less than a pixel, so few pictures teach the encoder to find a cube.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 5, stride=2, padding=2)
        self.conv2 = nn.Conv2d(16, 32, 3, stride=2, padding=1)
        self.conv3 = nn.Conv2d(32, NUM_CHANNELS, 3, padding=1)

    def forward(self, pictures: UInt8[Tensor, "b h w 3"] | Float[Tensor, "b h w 3"]) -> Float[Tensor, "b f"]:
        """Return the features of each picture, whose colours are from 0 to 255."""
        x = (pictures.float() / 255 - 0.5).permute(0, 3, 1, 2)  # in memory channels come last, which is faster
        x = self.conv3(self.conv2(self.conv1(x).relu()).relu())
        weights = x.flatten(2).softmax(-1)
        rows, columns = (torch.linspace(-1, 1, size, device=x.device) for size in x.shape[2:])
        grid = weights.unflatten(2, x.shape[2:])
        places = (grid.sum(2) @ columns, grid.sum(3) @ rows)
        return torch.cat([*places, (weights * x.flatten(2)).sum(-1).tanh()], 1)
