"""Pieces of episodes, as a teacher looks at them."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tercet.arm.episodes import Episodes


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


def cut(episodes: Episodes, length: int, stride: int) -> Segments:
    """All windows of `length` steps, one every `stride`, that no end of an episode falls into.

    An end may be a window's last step. Rows come in the order of the episodes, and within one in that of time.
    """
    num, horizon = episodes.dense.shape
    columns = {
        "states": episodes.next_observations,
        "actions": episodes.actions,
        "progress": episodes.infos.get("progress", episodes.dense),
        "success": episodes.infos["success"],
        "row": torch.arange(num)[:, None].expand(num, horizon),
        "step": torch.arange(horizon).expand(num, horizon),
    }
    starts = torch.arange(0, horizon - length + 1, stride)
    windows = starts[:, None] + torch.arange(length)
    before_end = episodes.ends()[:, windows[:, :-1]].any(-1) if length > 1 else torch.zeros(num, len(starts)).bool()
    whole = (~before_end).flatten()
    return Segments(**{name: values[:, windows].flatten(0, 1)[whole] for name, values in columns.items()})
