"""Videos for a browser: two policies side by side from the same start, with reward, value and advantage above.

A browser lays its own controls over the foot of a video, which is therefore left empty.
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

from tercet.arm.play.episodes import Act, Episodes, play_turn

WIDTH, HEIGHT = 320, 240  # of one picture
STRIP = 44  # height of one curve
TITLE, FOOT = 24, 48  # of the line above, and of what a browser's controls cover
FRAMES_A_SECOND = 20
HOLD = 15  # times that the last picture is shown, so that one sees how it ended

Picture = NDArray[np.uint8]  # (height, width, 3)


@dataclass(frozen=True)
class Curves:
    """What is drawn above a picture: a number a step."""

    reward: Float[Tensor, " t"]
    value: Float[Tensor, " t"]
    advantage: Float[Tensor, " t"]


@dataclass(frozen=True)
class Take:
    """One policy on one start: its pictures, its curves, and whether it succeeded."""

    title: str
    pictures: Sequence[Picture]
    curves: Curves
    success: bool


def film(
    env: VectorEnv,
    act_of: Callable[[slice], Act],
    turns: Sequence[slice],
    starts: Sequence[int],
    *,
    horizon: int,
    seed: int,
) -> tuple[Episodes, list[list[Picture]]]:
    """Play the turns with these starts once more, and take a picture after each step; FailedError without OpenGL."""
    found: dict[int, Episodes] = {}
    pictures: dict[int, list[Picture]] = {start: [] for start in starts}
    for rows in turns:
        some = [start for start in starts if rows.start <= start < rows.stop]

        def watch(step: int, some: list[int] = some, first: int = rows.start) -> None:
            for start in some:
                picture = env.render(start - first, WIDTH, HEIGHT)  # type: ignore[call-arg]  # Gymnasium's takes nothing
                pictures[start].append(picture)

        if some:
            episodes = play_turn(env, act_of(rows), rows, horizon=horizon, seed=seed, watch=watch)
            found |= {start: episodes.rows(torch.tensor([start - rows.start])) for start in some}
    return Episodes.joined([found[start] for start in starts]), list(pictures.values())


def write(file: Path, left: Take, right: Take) -> None:
    """An MP4 of both takes side by side."""
    encode(file, frames(left, right))


def encode(file: Path, pictures: Iterable[Picture]) -> None:
    """An MP4 (H.264, yuv420p) of pictures of one size, at least one."""
    following = iter(pictures)
    first = next(following)
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
    for frame in chain([first], following):
        writer.send(np.ascontiguousarray(frame))
    writer.close()


def frames(left: Take, right: Take) -> Iterator[Picture]:
    """Every picture of the video, the last one several times."""
    ranges = _ranges([left.curves, right.curves])
    num = len(left.pictures)
    for step in [*range(num), *[num - 1] * HOLD]:
        yield np.concatenate([_panel(take, step, ranges) for take in (left, right)], 1)


Ranges = Mapping[str, tuple[float, float]]
_NAMES = ("reward", "value", "advantage")
_INK, _MUTED, _PAPER, _RULE = (29, 31, 35), (105, 108, 115), (253, 252, 250), (226, 223, 216)
_COLOURS = {"reward": (194, 80, 31), "value": (47, 111, 181), "advantage": (122, 90, 176)}
_GOOD, _BAD = (35, 128, 75), (179, 38, 30)


def _ranges(both: Sequence[Curves]) -> Ranges:
    """One scale for both sides, 0 included, so that they can be compared."""
    whole = {name: torch.cat([getattr(curves, name) for curves in both]) for name in _NAMES}
    return {name: (min(0.0, float(y.min())), max(1e-6, float(y.max()))) for name, y in whole.items()}


def _panel(take: Take, step: int, ranges: Ranges) -> Picture:
    """The picture of one side at one step, its title and its curves above."""
    image = Image.new("RGB", (WIDTH, TITLE + 3 * STRIP + HEIGHT + FOOT), _PAPER)
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(size=13)
    draw.text((8, 4), take.title, fill=_INK, font=font)
    if step + 1 == len(take.pictures):
        verdict, colour = ("success", _GOOD) if take.success else ("no success", _BAD)
        draw.text((WIDTH - 8, 4), verdict, fill=colour, font=font, anchor="ra")
    for place, name in enumerate(_NAMES):
        _strip(draw, name, getattr(take.curves, name), step, ranges[name], top=TITLE + place * STRIP)
    image.paste(Image.fromarray(take.pictures[step]), (0, TITLE + 3 * STRIP))
    return np.asarray(image)


def _strip(
    draw: ImageDraw.ImageDraw, name: str, values: Tensor, step: int, limits: tuple[float, float], *, top: int
) -> None:
    """One curve: the whole course pale, what has happened so far in full, and the present number."""
    low, high = limits
    left, right, bottom = 84, WIDTH - 8, top + STRIP - 6

    def point(index: int) -> tuple[float, float]:
        share = (float(values[index]) - low) / (high - low)
        return left + (right - left) * index / max(1, len(values) - 1), bottom - share * (STRIP - 12)

    zero = bottom + low / (high - low) * (STRIP - 12)
    draw.line([(left, zero), (right, zero)], fill=_RULE)
    course = [point(index) for index in range(len(values))]
    draw.line(course, fill=_RULE, width=2)
    if step:
        draw.line(course[: step + 1], fill=_COLOURS[name], width=2)
    x, y = course[step]
    draw.ellipse([(x - 3, y - 3), (x + 3, y + 3)], fill=_COLOURS[name])
    font = ImageFont.load_default(size=11)
    draw.text((8, top + 6), name, fill=_MUTED, font=font)
    draw.text((8, top + 20), f"{float(values[step]):+.2f}", fill=_INK, font=font)
