"""The built-in judge, and errors of a user's judge."""

import pytest
import torch

from tercet.arm.preferences.judge import call_judge, nearer_the_target
from tercet.arm.preferences.segments import Segments
from tercet.errors import FailedError


def segments() -> Segments:
    """Two segments of two steps."""
    progress = torch.tensor([[-0.4, -0.2], [-0.1, -0.3]])
    states, step = torch.zeros(2, 2, 3), torch.zeros(2, 2, dtype=torch.long)
    return Segments(states, torch.zeros(2, 2, 2), progress, torch.zeros(2, 2), step, step)


def test_nearer_the_target_is_the_mean_progress() -> None:
    assert call_judge(nearer_the_target, segments(), "rule").tolist() == pytest.approx([-0.3, -0.2])


@pytest.mark.parametrize(
    ("judge", "message"),
    [
        (lambda segments: [0.0], "returned scores of shape"),
        (lambda segments: [float("nan")] * len(segments), "returned nan for a segment"),
        (lambda segments: 1 / 0, "raised ZeroDivisionError"),
    ],
)
def test_error_of_a_judge_names_it_and_the_cause(judge, message: str) -> None:  # type: ignore[no-untyped-def]  # each judge breaks the signature in another way
    with pytest.raises(FailedError, match=f"the judge mine {message}"):
        call_judge(judge, segments(), "mine")
