"""Videos for a browser: policies side by side from the same start, with reward, value and advantage above.

Browsers draw their controls over the bottom of a video, which is therefore left empty.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import torch
from gymnasium.vector import VectorEnv
from jaxtyping import Float
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from tercet.arm.play.episodes import ActionFunction, Episodes, play_turn

WIDTH, HEIGHT = 320, 240  # of one image
STRIP = 44  # height of one curve
TITLE, FOOT = 24, 48  # heights of the title and of a browser's controls
FRAMES_A_SECOND = 20
HOLD = 15  # frames for which the last image is shown, so that the end can be seen

Picture = NDArray[np.uint8]  # (height, width, 3)


@dataclass(frozen=True)
class Curves:
    """Curves drawn above the images, one number per step; without a critic only the reward, or none."""

    reward: Float[Tensor, " t"] | None = None
    value: Float[Tensor, " t"] | None = None
    advantage: Float[Tensor, " t"] | None = None


@dataclass(frozen=True)
class Clip:
    """One policy from one start: its images, its curves, True if it did well, and the words that say so at the end."""

    title: str
    pictures: Sequence[Picture]
    curves: Curves
    success: bool
    verdict: str = ""  # empty: success, or no success


def film(
    env: VectorEnv,
    agent_of: Callable[[slice], ActionFunction],
    turns: Sequence[slice],
    starts: Sequence[int],
    *,
    horizon: int,
    seed: int,
) -> tuple[Episodes, list[list[Picture]]]:
    """Play the turns that hold these starts, and render an image after each step; FailedError without OpenGL."""
    episode_of: dict[int, Episodes] = {}
    pictures: dict[int, list[Picture]] = {start: [] for start in starts}
    for rows in turns:
        filmed = [start for start in starts if rows.start <= start < rows.stop]

        def watch(step: int, filmed: list[int] = filmed, first: int = rows.start) -> None:
            for start in filmed:
                picture = env.render(start - first, WIDTH, HEIGHT)  # type: ignore[call-arg]  # Gymnasium's render takes no arguments
                pictures[start].append(picture)

        if filmed:
            episodes = play_turn(env, agent_of(rows), rows, horizon=horizon, seed=seed, watch=watch)
            episode_of |= {start: episodes.rows(torch.tensor([start - rows.start])) for start in filmed}
    return Episodes.joined([episode_of[start] for start in starts]), list(pictures.values())


def write(file: Path, *clips: Clip) -> None:
    """Write clips side by side as MP4."""
    encode(file, frames(*clips))


def encode(file: Path, pictures: Iterable[Picture]) -> None:
    """Write at least one image, all of one size, as MP4 (H.264, yuv420p)."""
    remaining = iter(pictures)
    first = next(remaining)
    writer = imageio_ffmpeg.write_frames(
        str(file),
        (first.shape[1], first.shape[0]),
        fps=FRAMES_A_SECOND,
        codec="libx264",
        pix_fmt_out="yuv420p",
        macro_block_size=2,
        output_params=["-crf", "23", "-preset", "veryfast", "-threads", "1", "-movflags", "+faststart"],
        ffmpeg_log_level="error",
    )
    writer.send(None)
    for frame in chain([first], remaining):
        writer.send(np.ascontiguousarray(frame))
    writer.close()


def frames(*clips: Clip) -> Iterator[Picture]:
    """Yield the frames of the video, for clips of the same length and curves; the last frame is repeated."""
    ranges = _ranges([clip.curves for clip in clips])
    num = len(clips[0].pictures)
    for step in [*range(num), *[num - 1] * HOLD]:
        yield np.concatenate([_panel(clip, step, ranges) for clip in clips], 1)


Ranges = Mapping[str, tuple[float, float]]
_NAMES = ("reward", "value", "advantage")
_INK, _MUTED, _PAPER, _RULE = (29, 31, 35), (105, 108, 115), (253, 252, 250), (226, 223, 216)
_COLOURS = {"reward": (194, 80, 31), "value": (47, 111, 181), "advantage": (122, 90, 176)}
_GOOD, _BAD = (35, 128, 75), (179, 38, 30)


def _names(curves: Curves) -> list[str]:
    return [name for name in _NAMES if getattr(curves, name) is not None]


def _ranges(sides: Sequence[Curves]) -> Ranges:
    """Return one range per curve for all sides, including 0."""
    values = {name: torch.cat([getattr(curves, name) for curves in sides]) for name in _names(sides[0])}
    return {name: (min(0.0, float(y.min())), max(1e-6, float(y.max()))) for name, y in values.items()}


def _panel(clip: Clip, step: int, ranges: Ranges) -> Picture:
    """Draw one side at one step: title, curves and image."""
    names = _names(clip.curves)
    image = Image.new("RGB", (WIDTH, TITLE + len(names) * STRIP + HEIGHT + FOOT), _PAPER)
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(size=13)
    draw.text((8, 4), clip.title, fill=_INK, font=font)
    if step + 1 == len(clip.pictures):
        words, colour = ("success", _GOOD) if clip.success else ("no success", _BAD)
        verdict = clip.verdict or words
        draw.text((WIDTH - 8, 4), verdict, fill=colour, font=font, anchor="ra")
    for index, name in enumerate(names):
        _strip(draw, name, getattr(clip.curves, name), step, ranges[name], top=TITLE + index * STRIP)
    image.paste(Image.fromarray(clip.pictures[step]), (0, TITLE + len(names) * STRIP))
    return np.asarray(image)


def _strip(
    draw: ImageDraw.ImageDraw, name: str, values: Tensor, step: int, limits: tuple[float, float], *, top: int
) -> None:
    """Draw one curve: all steps pale, the steps so far in colour, and the current value."""
    low, high = limits
    left, right, bottom = 84, WIDTH - 8, top + STRIP - 6

    def point(index: int) -> tuple[float, float]:
        share = (float(values[index]) - low) / (high - low)
        return left + (right - left) * index / max(1, len(values) - 1), bottom - share * (STRIP - 12)

    zero = bottom + low / (high - low) * (STRIP - 12)
    draw.line([(left, zero), (right, zero)], fill=_RULE)
    points = [point(index) for index in range(len(values))]
    draw.line(points, fill=_RULE, width=2)
    if step:
        draw.line(points[: step + 1], fill=_COLOURS[name], width=2)
    x, y = points[step]

    draw.ellipse([(x - 3, y - 3), (x + 3, y + 3)], fill=_COLOURS[name])
    font = ImageFont.load_default(size=11)
    draw.text((8, top + 6), name, fill=_MUTED, font=font)
    draw.text((8, top + 20), f"{float(values[step]):+.2f}", fill=_INK, font=font)
