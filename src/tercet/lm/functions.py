"""Functions the user names in the config (`module:function`), which turn prompts and responses into scores."""

import importlib
import math
import sys
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from pathlib import Path

from tercet.errors import FailedError, InputError

ScoreFunction = Callable[[list[str], list[str]], Sequence[float]]


def load_function(spec: str) -> ScoreFunction:
    """The function that `module:function` names; modules beside the user (in the working directory) are found too."""
    module_name, colon, function_name = spec.partition(":")
    if not (module_name and colon and function_name):
        raise InputError(f"{spec!r} is no function: write module:function, such as my_rewards:politeness")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)  # behind the installed packages, so that a local file cannot replace one of them
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and (module_name == error.name or module_name.startswith(f"{error.name}.")):
            raise InputError(
                f"{spec}: there is no module {error.name} in the working directory {here} or among the packages"
            ) from error
        raise InputError(f"{spec}: {module_name} imports {error.name}, which is not installed") from error
    except Exception as error:  # whatever the user's own module raises while it is read
        raise InputError(f"{spec}: importing {module_name} raised {_named(error)}") from error
    function: ScoreFunction | None = getattr(module, function_name, None)
    if function is None or not callable(function):
        names = [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]
        near = get_close_matches(function_name, names, n=1) or names[:5]
        hint = f"; it has {', '.join(near)}" if near else "; it has no functions"
        raise InputError(f"{spec}: module {module_name} has no function {function_name}{hint}")
    return function


def call_function(function: ScoreFunction, prompts: list[str], responses: list[str]) -> list[float]:
    """One finite score for each response; FailedError that names the function when it does not give that."""
    name = f"{getattr(function, '__module__', '?')}:{getattr(function, '__name__', repr(function))}"
    try:
        scores = [float(score) for score in function(list(prompts), list(responses))]
    except Exception as error:  # whatever the user's own function raises
        raise FailedError(f"the function {name} raised {_named(error)} on {len(prompts)} answers") from error
    if len(scores) != len(responses):
        raise FailedError(f"the function {name} gave {len(scores)} scores for {len(responses)} answers; one each")
    for score, prompt, response in zip(scores, prompts, responses, strict=True):
        if not math.isfinite(score):
            raise FailedError(f"the function {name} gave {score} for the answer {response!r} to {prompt!r}")
    return scores


def _named(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".strip().removesuffix(":")
