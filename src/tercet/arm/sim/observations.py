"""The observation of a built-in task: a table of its parts, from which it is built, named and sliced."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tercet.arm.sim.kinematics import Array
from tercet.arm.sim.readings import Readings, quarter
from tercet.arm.sim.scene import CUBE_HALF, OPENING
from tercet.arm.sim.workspace import WORKSPACE

_CENTRE = WORKSPACE.mean(1)


@dataclass(frozen=True)
class Part:
    """One row of the table: `size` successive entries of the observation, `read * scale - shift`.

    The scale brings entries to about unit size. `robot` is True if the robot measures the part on its own body, and so
    knows it without seeing the cube or the goal.
    """

    name: str
    size: int
    read: Callable[[Readings], Array]  # (n,) or (n, 3)
    scale: float
    shift: float = 0.0
    robot: bool = False

    @property
    def entries(self) -> list[str]:
        """The name of each entry."""
        return [self.name] if self.size == 1 else [f"{self.name}.{axis}" for axis in "xyz"]


ARM = (
    Part("tip", 3, lambda now: now.tip - _CENTRE, scale=15.0, robot=True),
    Part("target-tip", 3, lambda now: now.target - now.tip, scale=30.0, robot=True),
    Part("turn", 1, lambda now: now.turn, scale=1.0, robot=True),
    Part("opening", 1, lambda now: now.opening, scale=2 / OPENING, shift=1.0, robot=True),  # from -1 to 1
    Part("target_opening", 1, lambda now: now.target_opening, scale=2 / OPENING, shift=1.0, robot=True),
    Part("goal-tip", 3, lambda now: now.goal - now.tip, scale=10.0),
)
CUBE = (
    Part("cube-tip", 3, lambda now: now.cube - now.grip, scale=10.0),
    Part("goal-cube", 3, lambda now: now.goal - now.cube, scale=10.0),
    Part("cube.height", 1, lambda now: now.cube[:, 2] - CUBE_HALF, scale=15.0),
    Part("cube_turn-turn", 1, lambda now: quarter(now.cube_turn - now.turn), scale=1.5),
    Part("cube_velocity", 3, lambda now: now.cube_velocity, scale=3.0),
)
# a function of cube and goal, but too hard for a policy to learn from a few demonstrations
PUSHING_POINT = Part("pushing_point-tip", 3, lambda now: now.pushing_point - now.grip, scale=10.0)


class Layout:
    """The parts of an observation in their order: `names` and `robot` hold one value per entry."""

    def __init__(self, parts: tuple[Part, ...]) -> None:
        self.parts = parts
        self.names = tuple(name for part in parts for name in part.entries)
        self.robot = tuple(part.robot for part in parts for _ in range(part.size))
        ends = np.cumsum([part.size for part in parts]).tolist()
        self.slices = {part.name: slice(end - part.size, end) for part, end in zip(parts, ends, strict=True)}
        self._scale = np.array([part.scale for part in parts for _ in range(part.size)])
        self._shift = np.array([part.shift for part in parts for _ in range(part.size)])

    def __len__(self) -> int:
        return len(self.names)

    def build(self, now: Readings) -> NDArray[np.float32]:
        """Compute observations (n, len(self))."""
        rows = np.empty((len(now.tip), len(self)))
        for part in self.parts:
            values = part.read(now)
            rows[:, self.slices[part.name]] = values if part.size > 1 else values[:, None]
        rows *= self._scale
        rows -= self._shift
        return rows.astype(np.float32)
