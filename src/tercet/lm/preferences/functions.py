"""Load and call score functions of the user; each must return one finite score per response."""

import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeGuard, cast

import numpy as np
from torch import Tensor

from tercet.config.functions import load_function, named_error
from tercet.errors import FailedError, InputError
from tercet.runs.ranks import follows, share

ScoreFunction = Callable[
    [list[str], list[str]], Iterable[Any]
]  # Any: numbers of any library; call_function checks them

_WANTED = "return a list of numbers, one for each response"


def load_score_function(spec: str) -> ScoreFunction:
    """Load the function `module:function`; InputError if it cannot be called with prompts and responses."""
    if follows():
        return _of_rank_0
    function = load_function(spec)
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return function  # some functions written in C have no signature
    try:
        signature.bind([], [])
    except TypeError as error:
        name = spec.partition(":")[2]
        raise InputError(
            f"{spec}: {name}{signature} cannot be called with two lists, the prompts and the responses ({error}); "
            f"write def {name}(prompts, responses)"
        ) from error
    if inspect.iscoroutinefunction(function):
        raise InputError(f"{spec}: is an async function; write a plain one, which may call asyncio.run")
    return function


def call_function(function: ScoreFunction, prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
    """Return one finite score per response; FailedError that names the function if it returns anything else.

    The function may return a list, tuple, generator, array or tensor, also a column of shape (n, 1). Of several ranks
    only rank 0 calls it: it may ask a service, or give other scores to a second call.
    """
    return share(lambda: _scores(function, prompts, responses))


def _of_rank_0(prompts: list[str], responses: list[str]) -> list[float]:
    """Stand in for the function on the other ranks, which do not even import it."""
    raise AssertionError("only rank 0 calls the functions of the user")


def _scores(function: ScoreFunction, prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
    name = f"the function {function.__module__}:{getattr(function, '__name__', type(function).__name__)}"
    try:
        returned = _plain(function(list(prompts), list(responses)))  # copies, which the function may change
        values = list(returned) if _is_sequence(returned) else None
    except InputError:  # of a judge of ours, such as a missing package
        raise
    except (Exception, SystemExit) as error:  # any error of the user's function; it may call sys.exit
        raise FailedError(f"{name} raised {named_error(error)} on {len(prompts)} answers") from error
    if values is None:
        raise FailedError(f"{name} gave {_described(returned)} for {len(responses)} answers; {_WANTED}")
    if len(values) != len(responses):
        raise FailedError(f"{name} gave {len(values)} scores for {len(responses)} answers; {_WANTED}")
    return [
        _score(value, f"answer {index}, {responses[index]!r} to {prompts[index]!r}", name)
        for index, value in enumerate(values)
    ]


def _score(value: object, response: str, name: str) -> float:
    value = _plain(value)
    if isinstance(value, list | tuple) and len(value) == 1:
        value = _plain(value[0])  # a row of a column
    if not isinstance(value, int | float):
        raise FailedError(f"{name} gave {_described(value)} for {response}; {_WANTED}")
    try:
        score = float(value)
    except OverflowError:  # Python's integers have no limit
        score = math.inf
    if not math.isfinite(score):
        raise FailedError(f"{name} gave {score} for {response}; a score must be finite")
    return score


def _plain(value: object) -> object:
    """Turn tensors and arrays into numbers and lists."""
    return value.tolist() if isinstance(value, Tensor | np.ndarray | np.generic) else value


def _is_sequence(value: object) -> TypeGuard[Iterable[object]]:
    """Return True if the value is an ordered collection other than text."""
    return isinstance(value, Iterable) and not isinstance(value, str | bytes | Mapping | set | frozenset)


def _described(value: object) -> str:
    if inspect.iscoroutine(value):
        value.close()  # otherwise Python warns that it was never awaited
        return "a coroutine (is it async?)"
    if isinstance(value, Mapping):
        return f"a {type(value).__name__} with the keys {', '.join(map(str, cast(Mapping[object, object], value)))}"
    return f"{value!r:.60}" if value is None or isinstance(value, int | float | str) else f"a {type(value).__name__}"
