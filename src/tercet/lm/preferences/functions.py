"""Load and call score functions of the user; each must return one finite score, or None, per response."""

import asyncio
import inspect
import math
import threading
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import TypeGuard, cast

import numpy as np
from torch import Tensor

from tercet.config.functions import load_function, named_error
from tercet.errors import FailedError, InputError
from tercet.lm.data.columns import NO_COLUMNS, Columns, Function, Takes
from tercet.lm.preferences.time_limit import TimeIsUpError, time_limit
from tercet.runs.progress import say_once
from tercet.runs.ranks import follows, share

_WANTED = "return a list of numbers, one for each response"


@dataclass(frozen=True)
class Scores:
    """The score of each response, nan for none; `named` has the parts of it if the function returned several."""

    total: list[float]
    named: dict[str, list[float]] = field(default_factory=dict)


def load_score_function(spec: str) -> Function:
    """Load the function `module:function`; InputError if it cannot be called with prompts, responses and columns."""
    if follows():
        return _of_rank_0
    function = load_function(spec)
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return function  # some functions written in C have no signature
    takes, name = Takes.of(function), spec.partition(":")[2]
    positional, named = takes.arguments([], [], NO_COLUMNS)
    try:
        signature.bind(*positional, **named)
    except TypeError as error:
        raise InputError(
            f"{spec}: {name}{signature} cannot be called with two lists, the prompts and the responses ({error}); "
            f"write def {name}(prompts, responses), and columns of the data after them"
        ) from error
    if takes.by_position and takes.by_position[0] not in ("prompt", "prompts"):
        say_once(f"{spec}: {name}{signature} gets the prompts as its first and the responses as its second argument")
    return function


def call_function(
    function: Function,
    prompts: Sequence[str],
    responses: Sequence[str],
    columns: Columns = NO_COLUMNS,
    *,
    timeout_seconds: float = 0.0,
) -> Scores:
    """Return the scores of a function; FailedError that names it if it returns anything else, or takes too long.

    The function gets those of `columns` that it takes. It may be async. It returns a list, tuple, generator, array or
    tensor, also a column of shape (n, 1), or a mapping of names to such lists, whose sum is the score. None in a list
    is no score; of named scores the others are then summed.

    Of several ranks only rank 0 calls it: it may ask a service, or give other scores to a second call.
    """
    return share(lambda: _scores(function, prompts, responses, columns, timeout_seconds))


def _of_rank_0(prompts: list[str], responses: list[str]) -> list[float]:
    """Stand in for the function on the other ranks, which do not even import it."""
    raise AssertionError("only rank 0 calls the functions of the user")


def _scores(
    function: Function, prompts: Sequence[str], responses: Sequence[str], columns: Columns, timeout_seconds: float
) -> Scores:
    name = f"the function {function.__module__}:{getattr(function, '__name__', type(function).__name__)}"
    positional, named = Takes.of(function).arguments(prompts, responses, columns)
    try:
        with time_limit(timeout_seconds):
            returned = function(*positional, **named)
            returned = _read(_awaited(returned) if inspect.isawaitable(returned) else returned)
    except InputError:  # of a judge of ours, such as a missing package
        raise
    except TimeIsUpError:
        raise FailedError(
            f"{name} took longer than function_timeout_seconds={timeout_seconds:g} for {len(prompts)} answers; "
            "raise it, or make the function faster"
        ) from None
    except (Exception, SystemExit) as error:  # any error of the user's function; it may call sys.exit
        raise FailedError(f"{name} raised {named_error(error)} on {len(prompts)} answers") from error
    texts = [f"answer {i}, {text!r} to {prompts[i]!r}" for i, text in enumerate(responses)]
    if not isinstance(returned, Mapping):
        return Scores(_numbers(returned, texts, name))
    if not returned:
        raise FailedError(f"{name} gave no named scores for {len(texts)} answers; {_WANTED}")
    parts = cast(Mapping[object, object], returned)
    by_name = {str(key): _numbers(values, texts, f"{name}, score {key},") for key, values in parts.items()}
    rows = [[value for value in row if not math.isnan(value)] for row in zip(*by_name.values(), strict=True)]
    return Scores([sum(row) if row else math.nan for row in rows], by_name)


def _awaited(result: Awaitable[object]) -> object:
    """Wait for the result of an async function on the loop of all such functions, where their sessions stay open."""

    async def of() -> object:
        return await result

    future = asyncio.run_coroutine_threadsafe(of(), _loop())
    try:
        return future.result()
    except BaseException:
        future.cancel()
        raise


@cache
def _loop() -> asyncio.AbstractEventLoop:
    """Start an event loop in a thread of its own: a notebook already runs one in the main thread."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True).start()
    return loop


def _read(returned: object) -> object:
    """Return lists of what a function has returned; a generator may raise an error here."""
    if isinstance(returned, Mapping):
        return {key: _read(values) for key, values in cast(Mapping[object, object], returned).items()}
    returned = _plain(returned)
    return list(returned) if _is_sequence(returned) else returned


def _numbers(returned: object, texts: Sequence[str], name: str) -> list[float]:
    """Check the scores of a function, one for each of the texts that messages show; None becomes nan."""
    if not isinstance(returned, list):
        raise FailedError(f"{name} gave {_described(returned)} for {len(texts)} answers; {_WANTED}")
    values = cast(list[object], returned)
    if len(values) != len(texts):
        raise FailedError(f"{name} gave {len(values)} scores for {len(texts)} answers; {_WANTED}")
    return [_score(value, text, name) for value, text in zip(values, texts, strict=True)]


def _score(value: object, text: str, name: str) -> float:
    value = _plain(value)
    if isinstance(value, list | tuple) and len(value) == 1:
        value = _plain(value[0])  # a row of a column
    if value is None:
        return math.nan
    if not isinstance(value, int | float):
        raise FailedError(f"{name} gave {_described(value)} for {text}; {_WANTED}")
    try:
        score = float(value)
    except OverflowError:  # Python's integers have no limit
        score = math.inf
    if not math.isfinite(score):
        raise FailedError(f"{name} gave {score} for {text}; a score must be finite, or None for no score")
    return score


def _plain(value: object) -> object:
    """Turn tensors and arrays into numbers and lists."""
    return value.tolist() if isinstance(value, Tensor | np.ndarray | np.generic) else value


def _is_sequence(value: object) -> TypeGuard[Iterable[object]]:
    """Return True if the value is an ordered collection other than text."""
    return isinstance(value, Iterable) and not isinstance(value, str | bytes | Mapping | set | frozenset)


def _described(value: object) -> str:
    if isinstance(value, Mapping):
        return f"a {type(value).__name__} with the keys {', '.join(map(str, cast(Mapping[object, object], value)))}"
    return f"{value!r:.60}" if value is None or isinstance(value, int | float | str) else f"a {type(value).__name__}"
