"""Instructions: sentences that say what an episode asks for.

An observation holds the number of its sentence. A policy that reads looks the sentence up.
"""

from dataclasses import dataclass
from typing import Literal

Use = Literal["trained", "reworded", "renamed", "unnamed"]
# `trained`: in every step; the others are only for evaluation: `reworded` has the same colour word in a sentence that
# is never trained, `renamed` another word for the colour, and `unnamed` no colour, so that it names no cube
USES: tuple[Use, ...] = ("trained", "reworded", "renamed", "unnamed")


@dataclass(frozen=True)
class Instruction:
    """A sentence, and the cube that it asks for, by the order of `scene.COLOURS`; None if it names no cube."""

    sentence: str
    cube: int | None
    use: Use = "trained"


def numbers(instructions: tuple[Instruction, ...], use: Use, cube: int | None = None) -> list[int]:
    """Return the numbers of the instructions of this use, of one cube or of all."""
    return [number for number, one in enumerate(instructions) if one.use == use and (cube is None or one.cube == cube)]
