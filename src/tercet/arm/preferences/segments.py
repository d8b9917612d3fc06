"""Pieces of episodes, as a teacher looks at them."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tercet.arm.play.episodes import Episodes


@dataclass(frozen=True)
class Segments:
    """`length` steps each, one row a segment; `states` are those that the actions led to."""

    states: Float[Tensor, "n l o"]
    actions: Float[Tensor, "n l a"]
    progress: Float[Tensor, "n l"]  # how near the target, as the environment says; larger is nearer
    success: Float[Tensor, "n l"]
    row: Int[Tensor, "n l"]  # of the episodes that they were cut from
    step: Int[Tensor, "n l"]  # and the step that led to each state, from 0

    def rows(self, rows: Int[Tensor, " m"]) -> "Segments":
        """Some of them."""
        return Segments(*(getattr(self, name)[rows] for name in _COLUMNS))

    def __len__(self) -> int:
        return len(self.states)

    def step_by_step(self) -> "Segments":
        """Segments of a single step: the first steps of all, then the second steps of all, and so on."""
        return Segments(*(getattr(self, name).transpose(0, 1).flatten(0, 1)[:, None] for name in _COLUMNS))


_COLUMNS = ("states", "actions", "progress", "success", "row", "step")


def cut(episodes: Episodes, length: int, stride: int, *, repeat_last: bool = False) -> Segments:
    """All windows of `length` steps, one every `stride`, that no end of an episode falls into.

    An end may be a window's last step; a step that broke the simulation may not, since it leads to a fresh start.
    With `repeat_last` there are also windows that a termination falls into: the state that ended the episode is
    repeated to their end, as an arm that rests there would show it. Rows come in the order of the episodes, and within
    one in that of time.
    """
    num, horizon = episodes.dense.shape
    starts = torch.arange(0, horizon if repeat_last else horizon - length + 1, stride)
    wanted = starts[:, None] + torch.arange(length)
    last = _last_steps(episodes.ends())[:, starts, None]
    windows = torch.minimum(wanted, last)
    rested = windows < wanted  # here the episode is over
    broke = episodes.infos.get("blown_up", torch.zeros(num, horizon)) > 0.5
    rests = episodes.terminated if repeat_last else torch.zeros_like(broke)
    rows = torch.arange(num)[:, None, None]
    whole = ~((rested & ~rests[rows, windows]) | broke[rows, windows]).any(-1).flatten()
    columns = {
        "states": episodes.next_observations[rows, windows],
        "actions": episodes.actions[rows, windows].masked_fill(rested[..., None], 0.0),
        "progress": episodes.infos.get("progress", episodes.dense)[rows, windows],
        "success": episodes.infos["success"][rows, windows],
        "row": rows.expand_as(windows),
        "step": windows,
    }
    return Segments(**{name: values.flatten(0, 1)[whole] for name, values in columns.items()})


def _last_steps(ends: Bool[Tensor, "n t"]) -> Int[Tensor, "n t"]:
    """Of each step, the last one of its episode."""
    columns = torch.arange(ends.shape[1])
    over = torch.where(ends, columns, ends.shape[1] - 1)
    return over.flip(1).cummin(1).values.flip(1)
