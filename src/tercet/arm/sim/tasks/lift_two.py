"""Lift two: of a red and a blue cube, grip the one that the instruction names, and lift it."""

import numpy as np

from tercet.arm.sim.kinematics import Array
from tercet.arm.sim.observations import ARM, CUBE, INSTRUCTION, Layout, asked, cube_of
from tercet.arm.sim.scene import COLOURS
from tercet.arm.sim.tasks.instructions import Instruction, numbers
from tercet.arm.sim.tasks.lift import Lift
from tercet.arm.sim.tasks.task import Start, uniform

APART = 0.065  # metres between the cubes to the side, so that the open hand fits between them

_TRAINED = ("lift the {} cube", "raise the {} cube", "pick up the {} cube", "grasp the {} cube and lift it")
_REWORDED = ("pick up the {} block", "hoist the {} box", "take the {} cube and hold it up", "bring the {} block up")
_OTHER_WORDS = {"blue": ("navy", "azure"), "red": ("crimson", "scarlet")}


def _instructions() -> tuple[Instruction, ...]:
    colours = list(enumerate(COLOURS))
    return (
        *(Instruction(words.format(colour), cube) for words in _TRAINED for cube, colour in colours),
        *(Instruction(words.format(colour), cube, "reworded") for words in _REWORDED for cube, colour in colours),
        *(
            Instruction(_TRAINED[0].format(word), cube, "renamed")
            for cube, colour in colours
            for word in _OTHER_WORDS[colour]
        ),
        Instruction("lift the cube", None, "unnamed"),
    )


class LiftTwo(Lift):
    """Of two cubes, grip and lift the one that the instruction names.

    In the readings `cube` is that cube. The observation holds both, in the same way whichever is asked for, and what
    follows from the instruction: its number, and the entries about the cube that it names.
    """

    name = "lift-two"
    look_for = (
        "The sentence in the picture names a cube, which should be grasped and lifted high. The better one gets "
        "further: first the hand to that cube, then it between the fingers, then it higher, above the green frame. "
        "Lifting the other cube is no progress."
    )
    instructions = _instructions()
    observation = Layout(
        (
            *(part for part in ARM if part.robot),
            *(part for number, colour in enumerate(COLOURS) for part in cube_of(number, colour)),
            *asked((*(part for part in ARM if not part.robot), *CUBE)),
            INSTRUCTION,
        )
    )

    @property
    def num_cubes(self) -> int:
        """A blue and a red one."""
        return len(COLOURS)

    def start(self, draws: Array) -> Start:
        """Put the second cube at least 6.5 cm to the side of the first. Chance says which of them is asked for."""
        first = super().start(draws)
        low, high = self.cube_area[1]
        left, right = np.maximum(first.cube[:, 1] - APART - low, 0), np.maximum(high - first.cube[:, 1] - APART, 0)
        way = draws[:, 6] * (left + right)  # along both free stretches together
        second = first.cube.copy()
        second[:, 0] = uniform(draws[:, 7:8], self.cube_area[:1])[:, 0]
        second[:, 1] = np.where(way < left, low + way, high - (way - left))
        trained = numbers(self.instructions, "trained")
        instruction = np.array(trained)[(draws[:, 8] * len(trained)).astype(np.int64)]
        swapped = draws[:, 9:10] < 0.5
        cube, other = np.where(swapped, second, first.cube), np.where(swapped, first.cube, second)
        return Start(
            first.tip,
            first.opening,
            cube,
            first.cube_turn,
            self.goals(draws[:, 6:], cube),
            other=other,
            instruction=instruction,
        )
