"""The user's own functions: called, and held to one finite score for each answer."""

import pytest

from tercet.errors import FailedError
from tercet.lm.functions import call_function


def lengths(prompts: list[str], responses: list[str]) -> list[int]:
    return [len(response) for response in responses]


def test_a_function_gives_a_score_for_each_answer() -> None:
    assert call_function(lengths, ["a", "b"], ["xx", "yyy"]) == [2.0, 3.0]


def raises(prompts: list[str], responses: list[str]) -> list[float]:
    raise KeyError("score")


def too_few(prompts: list[str], responses: list[str]) -> list[float]:
    return [0.0] * (len(responses) - 1)


def not_a_number(prompts: list[str], responses: list[str]) -> list[float]:
    return [1.0, float("nan")]


def nothing(prompts: list[str], responses: list[str]) -> None:
    return None


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (raises, r":raises raised KeyError: 'score' on 2 answers"),
        (too_few, r":too_few gave 1 scores for 2 answers"),
        (not_a_number, r":not_a_number gave nan for the answer 'second' to 'b'"),
        (nothing, r":nothing raised TypeError"),
    ],
)
def test_a_function_that_misbehaves_is_named_with_the_cause(function, message: str) -> None:  # type: ignore[no-untyped-def]  # each of them is wrong in its own way
    with pytest.raises(FailedError, match=message):
        call_function(function, ["a", "b"], ["first", "second"])
