"""Camera pictures in the size that a policy needs, from a simulation, a recording or a robot."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tercet.config.arm import PolicyConfig

Picture = NDArray[np.uint8]  # (height, width, 3)


@dataclass(frozen=True)
class Camera:
    """Name of a camera, and the size of its pictures as a policy gets them."""

    name: str
    height: int
    width: int

    def fitted(self, picture: Picture) -> Picture:
        """Crop a picture to this aspect ratio around its centre, then resize it.

        MuJoCo's field of view is that of the height, so a simulation that draws at this size shows the same.
        """
        height, width = picture.shape[:2]
        if (height, width) == (self.height, self.width):
            return picture
        scale = min(height / self.height, width / self.width)
        across, down = (width - self.width * scale) / 2, (height - self.height * scale) / 2
        box = (across, down, width - across, height - down)
        return np.array(Image.fromarray(picture).resize((self.width, self.height), Image.Resampling.BILINEAR, box))


def as_picture(drawn: object) -> Picture | None:
    """Convert an array to an image (height, width, 3) of uint8. Return None if its shape or type does not fit.

    Floats up to 1 are scaled to 255, grey pictures get three channels, and an alpha channel is dropped.
    """
    if (
        not isinstance(drawn, np.ndarray)
        or drawn.ndim not in (2, 3)
        or not drawn.size
        or drawn.dtype.kind not in "buif"
    ):
        return None
    colours = drawn[..., None] if drawn.ndim == 2 else drawn
    if colours.shape[2] not in (1, 3, 4):
        return None
    if colours.dtype.kind in "bf" and np.nanmax(colours) <= 1:
        colours = colours * 255.0
    whole = np.clip(np.nan_to_num(colours[..., :3].astype(np.float64)), 0, 255).round().astype(np.uint8)
    return np.repeat(whole, 3, axis=2) if whole.shape[2] == 1 else whole


def framed(picture: Picture, width: int, height: int) -> Picture:
    """Fit the whole picture into this size, with white borders."""
    scale = min(width / picture.shape[1], height / picture.shape[0])
    across, down = max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale))
    whole = np.full((height, width, 3), 255, np.uint8)
    left, top = (width - across) // 2, (height - down) // 2
    inside = Image.fromarray(picture).resize((across, down), Image.Resampling.BILINEAR)
    whole[top : top + down, left : left + across] = np.asarray(inside)
    return whole


def cameras_of(config: PolicyConfig) -> tuple[Camera, ...]:
    """Return the cameras of a new policy, in the order of the config."""
    return tuple(Camera(name, *config.image_size) for name in config.cameras)
