"""Functions of prompts and responses that the user names: called, and held to one finite score for each answer."""

import math
from collections.abc import Callable, Sequence

from tercet.config.functions import named_error
from tercet.errors import FailedError

ScoreFunction = Callable[[list[str], list[str]], Sequence[float]]


def call_function(function: ScoreFunction, prompts: list[str], responses: list[str]) -> list[float]:
    """One finite score for each response; FailedError that names the function when it does not give that."""
    name = f"{getattr(function, '__module__', '?')}:{getattr(function, '__name__', repr(function))}"
    try:
        scores = [float(score) for score in function(list(prompts), list(responses))]
    except Exception as error:  # whatever the user's own function raises
        raise FailedError(f"the function {name} raised {named_error(error)} on {len(prompts)} answers") from error
    if len(scores) != len(responses):
        raise FailedError(f"the function {name} gave {len(scores)} scores for {len(responses)} answers; one each")
    for score, prompt, response in zip(scores, prompts, responses, strict=True):
        if not math.isfinite(score):
            raise FailedError(f"the function {name} gave {score} for the answer {response!r} to {prompt!r}")
    return scores
