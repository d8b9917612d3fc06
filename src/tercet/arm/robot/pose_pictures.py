"""Pictures of the poses of a calibration, drawn with the makers' model: on a page, and in the terminal."""

# pyright: reportAttributeAccessIssue=false
# (MuJoCo's compiled modules come without types)

import base64
from collections.abc import Sequence
from html import escape
from io import BytesIO
from pathlib import Path

import mujoco
import numpy as np
from PIL import Image
from rich.style import Style
from rich.text import Text

from tercet.arm.robot.poses import Pose, Touch
from tercet.arm.robot.safety import NAMES
from tercet.arm.sim.cameras import Picture
from tercet.arm.sim.render import Studio
from tercet.arm.sim.so101 import So101
from tercet.runs.atomic import write_text

_SIZE = 480, 360
_BACK = np.array([0.14, -0.24, 0.18])  # moves the camera `front` away, so that every pose is in the picture
_BODIES = ("shoulder", "upper_arm", "lower_arm", "wrist", "gripper", "moving_jaw_so101_v1")  # that each joint moves
_RED = (0.85, 0.15, 0.12, 1.0)
_BELOW = np.array([0.0, 0.0, -1.0])  # where the ball of the goal is out of sight


class Album:
    """Draws poses of an SO-101, with the part red that moves, or with a green ball at the point to touch."""

    def __init__(self) -> None:
        self._arm = So101()
        self._model = self._arm.build(num_cubes=0, drawn=True)
        self._studio = Studio(self._model)
        self._colours = self._model.geom_rgba.copy(), self._model.geom_matid.copy()

    def picture(self, step: Pose | Touch) -> Picture:
        """Draw a step (height, width, 3). Raise FailedError without OpenGL."""
        self._model.geom_rgba[:], self._model.geom_matid[:] = self._colours
        if isinstance(step, Pose):
            body = mujoco.mj_name2id(self._model, mujoco.mjtObj.mjOBJ_BODY, _BODIES[NAMES.index(step.joint)])
            part = self._model.geom_bodyid == body
            self._model.geom_matid[part], self._model.geom_rgba[part] = -1, _RED
        state = np.zeros(1 + self._model.nq + self._model.nv)
        state[1 : 1 + self._model.nq] = self._arm.positions(step.joints[None, :-1], step.joints[-1:])[0]
        goal = step.point if isinstance(step, Touch) else _BELOW
        width, height = _SIZE
        return self._studio.picture(state, goal, width=width, height=height, camera="front", aside=_BACK)

    def close(self) -> None:
        """Free the renderer."""
        self._studio.close()


def write_page(file: Path, steps: Sequence[Pose | Touch], album: Album) -> None:
    """Write a page with the picture and the instruction of every step."""
    figures = [
        f'<figure><img src="{_as_png(album.picture(step))}" alt="{escape(step.text)}">'
        f"<figcaption>{number}. {escape(step.text)}</figcaption></figure>"
        for number, step in enumerate(steps, start=1)
    ]
    head = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Calibration</title><style>{_STYLE}</style>'
    write_text(file, f"{head}<h1>Poses of the calibration</h1>{''.join(figures)}</html>\n")


_STYLE = (
    "body{font:16px/1.5 sans-serif;margin:2em auto;max-width:62em;padding:0 1em}"
    "figure{display:inline-block;margin:.5em}img{width:100%;max-width:30em;border-radius:6px}figcaption{max-width:30em}"
)


def as_text(picture: Picture, columns: int) -> Text:
    """Return the picture as half blocks of a terminal, two pixels in each character."""
    height, width = picture.shape[:2]
    rows = 2 * max(1, round(height * columns / width / 2))
    small = np.asarray(Image.fromarray(picture).resize((columns, rows), Image.Resampling.BOX)).tolist()
    text = Text()
    for upper, lower in zip(small[::2], small[1::2], strict=True):
        for above, below in zip(upper, lower, strict=True):
            text.append("▀", Style(color=_hex(above), bgcolor=_hex(below)))
        text.append("\n")
    return text


def _hex(colour: Sequence[int]) -> str:
    return "#" + "".join(f"{part:02x}" for part in colour)


def _as_png(picture: Picture) -> str:
    file = BytesIO()
    Image.fromarray(picture).save(file, "png")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
