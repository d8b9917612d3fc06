"""A sentence below what people are shown."""

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from tercet.arm.sim.cameras import Picture

_INK, _PAPER = (29, 31, 35), (253, 252, 250)


def captioned(picture: Picture, sentence: str) -> Picture:
    """Write the sentence over the lower border of a picture (height, width, 3)."""
    image = Image.fromarray(picture)
    width, height = image.size
    size = max(8, height // 18)
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(size=size)
    draw.rectangle((0, height - 2 * size, width, height), fill=_PAPER)
    draw.text((width / 2, height - size), sentence, fill=_INK, font=font, anchor="mm")
    return np.asarray(image)
