"""A stated rule in place of a teacher, and how a rule of one's own is asked."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from tercet.arm.preferences.segments import Segments
from tercet.config.functions import named_error
from tercet.errors import FailedError

Judge = Callable[[Segments], Sequence[float] | Tensor]


def nearer_the_target(segments: Segments) -> Float[Tensor, " n"]:
    """How near the target a segment was, in the mean over its steps: the environment's `progress`."""
    return segments.progress.mean(1)


def call_judge(judge: Judge, segments: Segments, name: str) -> Float[Tensor, " n"]:
    """One finite score for each segment; FailedError that names the judge where it does not give that."""
    try:
        scores = torch.as_tensor(judge(segments), dtype=torch.float32)
    except (Exception, SystemExit) as error:  # whatever the user's own function raises; it may call sys.exit
        raise FailedError(f"the judge {name} raised {named_error(error)} on {len(segments)} segments") from error
    if scores.shape != (len(segments),):
        raise FailedError(f"the judge {name} gave scores of shape {tuple(scores.shape)} for {len(segments)} segments")
    if not scores.isfinite().all():
        raise FailedError(f"the judge {name} gave {scores[~scores.isfinite()][0]} for a segment")
    return scores
