"""What a policy's cameras see: pictures of the size that it wants, from a simulation, a recording or a robot."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tercet.config.arm import PolicyConfig

Picture = NDArray[np.uint8]  # (height, width, 3)


@dataclass(frozen=True)
class Camera:
    """A camera by its name, and the size of its pictures as a policy gets them."""

    name: str
    height: int
    width: int

    def fitted(self, picture: Picture) -> Picture:
        """A picture of any size at this one's: cut to its shape around the middle, then resized.

        What stands upright stays so: a simulation that draws at this size at once shows the same, for MuJoCo's field of
        view is that of the height.
        """
        height, width = picture.shape[:2]
        if (height, width) == (self.height, self.width):
            return picture
        scale = min(height / self.height, width / self.width)
        across, down = (width - self.width * scale) / 2, (height - self.height * scale) / 2
        box = (across, down, width - across, height - down)
        return np.array(Image.fromarray(picture).resize((self.width, self.height), Image.Resampling.BILINEAR, box))


def cameras_of(config: PolicyConfig) -> tuple[Camera, ...]:
    """Those of a fresh policy, in the order of the config."""
    return tuple(Camera(name, *config.image_size) for name in config.cameras)
