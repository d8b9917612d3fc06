"""Groups of episodes from the same starts: the same starts are played several times with different noise."""

from collections.abc import Sequence

import torch
from torch import Tensor

from tercet.arm.play.agent import PolicyEpisodes
from tercet.arm.play.episodes import Episodes


def grouped(plays: Sequence[PolicyEpisodes]) -> PolicyEpisodes:
    """Join plays of the same starts, so that the episodes of each start are adjacent rows: its group."""
    if len(plays) == 1:
        return plays[0]
    num = len(plays[0].starts)
    order = torch.arange(len(plays) * num).view(len(plays), num).T.flatten()
    starts = torch.cat([play.starts for play in plays])[order]
    return PolicyEpisodes(
        Episodes.joined([play.episodes for play in plays]).rows(order),
        starts,
        torch.cat([play.decisions for play in plays])[order],
        tuple(torch.cat(images)[_order_of_pictures(plays, order, starts)] for images in _by_camera(plays)),
    )


def _by_camera(plays: Sequence[PolicyEpisodes]) -> list[tuple[Tensor, ...]]:
    return list(zip(*(play.pictures for play in plays), strict=True))


def _order_of_pictures(plays: Sequence[PolicyEpisodes], order: Tensor, starts: Tensor) -> Tensor:
    """Return which images of all plays, one play after another, are those of the joined rows: by step, then by row."""
    numbers, before = list[Tensor](), 0
    for play in plays:
        number = play.starts.T.flatten().cumsum(0) - 1  # by step, then by row
        numbers.append(number.view(play.starts.T.shape).T + before)
        before += int(play.starts.sum())
    return torch.cat(numbers)[order].T[starts.T]
