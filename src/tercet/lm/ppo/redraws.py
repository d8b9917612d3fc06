"""Groups of responses for an algorithm without a critic, and drawing those again from which nothing can be learned."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from tercet.core.groups import is_equal
from tercet.lm.sampling.responses import Responses


@dataclass(frozen=True)
class Groups:
    """Responses in groups with their scores, the number of groups drawn for them, and of those of equal scores."""

    responses: Responses
    scores: Float[Tensor, " b"]
    num_drawn: int
    num_equal: int

    @property
    def metrics(self) -> dict[str, float]:
        """The metrics of a rollout."""
        return {"equal_groups": self.num_equal / self.num_drawn, "drawn_groups": float(self.num_drawn)}


def draw_groups(
    draw: Callable[[int], Responses],
    score: Callable[[Responses], Float[Tensor, " b"]],
    reward: Callable[[Responses, Tensor], Float[Tensor, " b"]],
    *,
    group_size: int,
    max_redraws: int,
) -> Groups:
    """Draw groups of responses, and with `max_redraws` leave out those of equal rewards and draw others (DAPO).

    `draw(attempt)` samples a whole batch, `reward` makes of its scores what the group's advantages compare. After the
    last attempt there may be fewer groups. If all are equal in every attempt, the last batch is returned whole: its
    advantages are 0.
    """
    kept, scores_kept, num_drawn, num_equal = list[Responses](), list[Tensor](), 0, 0
    num_wanted = 0  # as many groups as the first attempt draws
    responses, scores = None, None
    for attempt in range(1 + max_redraws):
        responses = draw(attempt)
        scores = score(responses)
        equal = is_equal(reward(responses, scores), group_size=group_size)
        num_wanted = num_wanted or len(equal)
        num_drawn, num_equal = num_drawn + len(equal), num_equal + int(equal.sum())
        if not max_redraws:
            return Groups(responses, scores, num_drawn, num_equal)
        room = num_wanted - sum(map(len, scores_kept)) // group_size
        chosen = (~equal).nonzero()[:room]
        rows = (chosen * group_size + torch.arange(group_size, device=chosen.device)).flatten()
        if len(rows):
            kept.append(responses.rows(rows))
            scores_kept.append(scores[rows])
        if len(chosen) == room:
            break
    if kept:
        responses, scores = Responses.joined(kept), torch.cat(scores_kept)
    assert responses is not None and scores is not None  # there is at least one attempt
    return Groups(responses, scores, num_drawn, num_equal)
