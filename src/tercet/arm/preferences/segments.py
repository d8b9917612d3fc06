"""Segments of episodes, which a teacher judges."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tercet.arm.play.episodes import Episodes


@dataclass(frozen=True)
class Segments:
    """Segments of `length` steps, one per row; `states` are the states after each action."""

    states: Float[Tensor, "n l o"]
    actions: Float[Tensor, "n l a"]
    progress: Float[Tensor, "n l"]  # the environment's progress; larger is nearer the target
    success: Float[Tensor, "n l"]
    row: Int[Tensor, "n l"]  # row of the episodes from which the segment was cut
    step: Int[Tensor, "n l"]  # step before each state, from 0

    def rows(self, rows: Int[Tensor, " m"]) -> "Segments":
        """Select segments."""
        return Segments(*(getattr(self, name)[rows] for name in _COLUMNS))

    def __len__(self) -> int:
        return len(self.states)

    def step_by_step(self) -> "Segments":
        """Split into segments of one step: the first steps of all segments, then the second steps, and so on."""
        return Segments(*(getattr(self, name).transpose(0, 1).flatten(0, 1)[:, None] for name in _COLUMNS))


_COLUMNS = ("states", "actions", "progress", "success", "row", "step")


def cut(episodes: Episodes, length: int, stride: int, *, repeat_last: bool = False) -> Segments:
    """Cut windows of `length` steps, one every `stride`, that lie within one episode.

    A window may end with its episode, but not with a step that broke the simulation, since that leads to a new start.
    With `repeat_last`, windows may also go beyond a termination: the last state of the episode is repeated, as if the
    arm rested there. Rows are ordered by episode, then by time.
    """
    num, horizon = episodes.dense.shape
    starts = torch.arange(0, horizon if repeat_last else horizon - length + 1, stride)
    wanted = starts[:, None] + torch.arange(length)
    last = _last_steps(episodes.ends())[:, starts, None]
    windows = torch.minimum(wanted, last)
    is_over = windows < wanted  # the episode has ended before this step
    broken = episodes.infos.get("blown_up", torch.zeros(num, horizon)) > 0.5
    repeatable = episodes.terminated if repeat_last else torch.zeros_like(broken)
    rows = torch.arange(num)[:, None, None]
    valid = ~((is_over & ~repeatable[rows, windows]) | broken[rows, windows]).any(-1).flatten()
    columns = {
        "states": episodes.outcomes[rows, windows],
        "actions": episodes.actions[rows, windows].masked_fill(is_over[..., None], 0.0),
        "progress": episodes.infos.get("progress", episodes.dense)[rows, windows],
        "success": episodes.infos["success"][rows, windows],
        "row": rows.expand_as(windows),
        "step": windows,
    }
    return Segments(**{name: values.flatten(0, 1)[valid] for name, values in columns.items()})


def _last_steps(ends: Bool[Tensor, "n t"]) -> Int[Tensor, "n t"]:
    """Return the last step of each step's episode."""
    columns = torch.arange(ends.shape[1])
    last = torch.where(ends, columns, ends.shape[1] - 1)
    return last.flip(1).cummin(1).values.flip(1)
