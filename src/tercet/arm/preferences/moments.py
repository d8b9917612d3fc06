"""Moments of an episode that a person calls good or bad while it plays."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tercet.arm.play.episodes import Episodes
from tercet.arm.preferences.pairs import Pairs, Questions, answered
from tercet.arm.preferences.segments import cut

# A step of 1/20 s is too short for an eye: good says that the state there is better than the one a quarter of a second
# before. The page takes the person's time to react off by itself.
LOOK_BACK = 5

Mark = Mapping[str, Any]  # Any: JSON, {"step": 17, "call": "good"}


def about_moments(episodes: Episodes) -> Questions:
    """Every moment of the episodes as a question: the state LOOK_BACK steps before it, and the one there."""
    windows = cut(episodes, LOOK_BACK + 1, 1)
    singles, num = windows.step_by_step(), len(windows)
    return Questions(singles, torch.arange(num), torch.arange(num) + LOOK_BACK * num)


def pairs_of_marks(
    states: Float[Tensor, "n t o"], lengths: Int[Tensor, " n"], said: Sequence[Sequence[Mark]], name: str
) -> Pairs:
    """What a person's marks say of the states of each episode, its first `lengths` steps."""
    rows, before, there, good = [], [], [], []
    for row, marks in enumerate(said):
        for mark in marks:
            step = min(int(mark["step"]), int(lengths[row]) - 1)
            rows.append(row)
            there.append(step)
            before.append(max(0, step - LOOK_BACK))
            good.append(float("nan") if step == 0 else 1.0 if mark["call"] == "good" else 0.0)
    where, preferences = torch.tensor(rows, dtype=torch.long), torch.tensor(good, dtype=torch.float32)
    first, second = (states[where, torch.tensor(steps, dtype=torch.long)][:, None] for steps in (there, before))
    return answered(first, second, preferences, name)
