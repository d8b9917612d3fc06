"""Other sentences in place of those of the episodes, in what a policy observes. The task stays what it was."""

from collections.abc import Callable
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from tercet.arm.sim.observations import INSTRUCTION, numbers_of
from tercet.arm.sim.tasks.instructions import numbers
from tercet.arm.sim.tasks.task import Task

# `swapped` names the other cube; the others are uses of `instructions.py`
Way = Literal["reworded", "renamed", "unnamed", "swapped"]
WAYS: tuple[Way, ...] = get_args(Way)

Retell = Callable[[Float[Tensor, "n o"]], Float[Tensor, "n o"]]


def retelling(task: Task, way: Way) -> Retell:
    """Return a function that replaces the instruction in each row of observations.

    Where several sentences would do, the rows take them in turn.
    """
    entry = task.observation.names.index(INSTRUCTION.name)
    choices = [_choices(task, number, way) for number in range(len(task.instructions))]

    def retell(observations: Tensor) -> Tensor:
        told = numbers_of(observations[:, entry].numpy())
        others = [choices[number][row % len(choices[number])] for row, number in enumerate(told)]
        changed = observations.clone()
        changed[:, entry] = torch.tensor(others, dtype=observations.dtype) * INSTRUCTION.scale
        return changed

    return retell


def _choices(task: Task, number: int, way: Way) -> list[int]:
    """Return the numbers of the sentences that may replace one."""
    told = task.instructions[number]
    if way == "swapped":
        others = [n for n in numbers(task.instructions, told.use) if task.instructions[n].cube != told.cube]
        return others or [number]
    return numbers(task.instructions, way, None if way == "unnamed" else told.cube) or [number]
