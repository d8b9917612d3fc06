"""The built-in judges, and the call of any judge."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from tercet.arm.preferences.segments import Segments
from tercet.config.functions import named_error
from tercet.errors import FailedError
from tercet.runs.ranks import share

Judge = Callable[[Segments], Sequence[float] | Tensor]


def nearer_the_target(segments: Segments) -> Float[Tensor, " n"]:
    """Score segments by the mean of `progress` over their steps: mostly how near the target they are."""
    return segments.progress.mean(1)


def succeeded(segments: Segments) -> Float[Tensor, " n"]:
    """Score segments by the share of their steps that the environment calls a success: the marks of `success`."""
    return segments.success.mean(1)


def call_judge(judge: Judge, segments: Segments, name: str) -> Float[Tensor, " n"]:
    """Return one finite score per segment; FailedError if the judge fails or returns anything else.

    Of several ranks only rank 0 calls the judge.
    """
    return share(lambda: _scores(judge, segments, name))


def _scores(judge: Judge, segments: Segments, name: str) -> Float[Tensor, " n"]:
    try:
        scores = torch.as_tensor(judge(segments), dtype=torch.float32)
    except (Exception, SystemExit) as error:  # a user's function can raise anything, and may call sys.exit
        raise FailedError(f"the judge {name} raised {named_error(error)} on {len(segments)} segments") from error
    if scores.shape != (len(segments),):
        raise FailedError(
            f"the judge {name} returned scores of shape {tuple(scores.shape)} for {len(segments)} segments"
        )
    if not scores.isfinite().all():
        raise FailedError(f"the judge {name} returned {scores[~scores.isfinite()][0]} for a segment")
    return scores
