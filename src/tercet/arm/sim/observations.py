"""The observation of a built-in task: a table of its parts, from which it is built, named and sliced."""

from collections.abc import Callable
from dataclasses import dataclass, replace

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
    knows it without seeing the cube or the goal. `told` is True if the part follows from the instruction of the
    episode: a policy that reads the sentence must not see it. `of` names what the part is about.
    """

    name: str
    size: int
    read: Callable[[Readings], Array]  # (n,) or (n, 3)
    scale: float
    shift: float = 0.0
    robot: bool = False
    told: bool = False
    of: str = ""

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


def cube_of(number: int, colour: str) -> tuple[Part, ...]:
    """Return the parts about one of several cubes: those of `CUBE` without the goal."""
    name, of = f"{colour}_cube", f"{colour} cube"
    return (
        Part(f"{name}-tip", 3, lambda now: now.cubes[number].place - now.grip, scale=10.0, of=of),
        Part(f"{name}.height", 1, lambda now: now.cubes[number].place[:, 2] - CUBE_HALF, scale=15.0, of=of),
        Part(f"{name}_turn-turn", 1, lambda now: quarter(now.cubes[number].turn - now.turn), scale=1.5, of=of),
        Part(f"{name}_velocity", 3, lambda now: now.cubes[number].velocity, scale=3.0, of=of),
    )


def asked(parts: tuple[Part, ...]) -> tuple[Part, ...]:
    """Mark parts as following from the instruction."""
    return tuple(replace(part, told=True) for part in parts)


def _number(now: Readings) -> Array:
    assert now.instruction is not None
    return now.instruction.astype(np.float64)


# the number of the sentence, scaled to about unit size; `numbers_of` reads it
INSTRUCTION = Part("instruction", 1, _number, scale=0.1, told=True)


def numbers_of(entries: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return the numbers of the instructions that these entries of observations stand for."""
    return np.rint(entries / INSTRUCTION.scale).astype(np.int64)


class Layout:
    """The parts of an observation in their order: `names`, `robot`, `told` and `of` hold one value per entry."""

    def __init__(self, parts: tuple[Part, ...]) -> None:
        self.parts = parts
        self.names = tuple(name for part in parts for name in part.entries)
        self.robot = tuple(part.robot for part in parts for _ in range(part.size))
        self.told = tuple(part.told for part in parts for _ in range(part.size))
        self.of = tuple(part.of for part in parts for _ in range(part.size))
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
