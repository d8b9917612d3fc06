"""Moments of an episode that a person marks as good or bad while it plays."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tercet.arm.play.episodes import Episodes
from tercet.arm.preferences.pairs import Pairs, Questions, pairs_from_answers, pairs_from_marks
from tercet.arm.preferences.segments import cut

# A step of 1/20 s is too short to see. A mark `good` means: the state is better than the state a quarter of a
# second earlier. The page already subtracts the person's reaction time.
LOOK_BACK = 5

Mark = Mapping[str, Any]  # Any: JSON, {"step": 17, "call": "good"}


def moment_questions(episodes: Episodes) -> Questions:
    """Make one question per moment of the episodes: the state LOOK_BACK steps before it, and the state at it."""
    windows = cut(episodes, LOOK_BACK + 1, 1)
    single_steps, num = windows.step_by_step(), len(windows)
    return Questions(single_steps, torch.arange(num), torch.arange(num) + LOOK_BACK * num)


def frames_of_marks(
    states: Float[Tensor, "n t o"],
    lengths: Int[Tensor, " n"],
    marks: Sequence[Sequence[Mark]],
    name: str,
    known: Pairs | None = None,
) -> Pairs:
    """Convert a person's marks on each episode to states that are a success (`good`) or not, paired."""
    marked = [(row, mark) for row, marks_of_row in enumerate(marks) for mark in marks_of_row]
    rows = torch.tensor([row for row, _ in marked], dtype=torch.long)
    steps = torch.tensor([int(mark["step"]) for _, mark in marked], dtype=torch.long)
    success = torch.tensor([float(mark["call"] == "good") for _, mark in marked])
    return pairs_from_marks(states[rows, torch.minimum(steps, lengths[rows] - 1)][:, None], success, name, known)


def pairs_of_marks(
    states: Float[Tensor, "n t o"],
    lengths: Int[Tensor, " n"],
    marks: Sequence[Sequence[Mark]],
    name: str,
    known: Pairs | None = None,
) -> Pairs:
    """Convert a person's marks on each episode (its first `lengths` steps) to pairs of states."""
    rows, before, marked, good = [], [], [], []
    for row, marks_of_row in enumerate(marks):
        for mark in marks_of_row:
            step = min(int(mark["step"]), int(lengths[row]) - 1)
            rows.append(row)
            marked.append(step)
            before.append(max(0, step - LOOK_BACK))
            good.append(float("nan") if step == 0 else 1.0 if mark["call"] == "good" else 0.0)
    index, preferences = torch.tensor(rows, dtype=torch.long), torch.tensor(good, dtype=torch.float32)
    first, second = (states[index, torch.tensor(steps, dtype=torch.long)][:, None] for steps in (marked, before))
    return pairs_from_answers(first, second, preferences, name, known)
