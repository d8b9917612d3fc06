"""Functions that the user names in the config, as `module:function` or `module:function(text)`."""

import importlib
import sys
from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType
from typing import Any

from tercet.errors import InputError

PERSON = "person"  # a judge that is a person, not a function

# What `module:function(text)` has made from which function, so that it is made once: it may open a file or a service.
_made_before: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {}  # Any: functions of the user


def load_function(spec: str) -> Callable[..., Any]:  # Any: the caller checks its results
    """Return the function named by `module:function`; the working directory is searched after installed packages.

    `module:function(text)` calls the function with that text, and what it returns is the function.
    """
    module_name, colon, rest = spec.partition(":")
    function_name, bracket, text = rest.partition("(")
    if not (module_name and colon and function_name and (not bracket or text.endswith(")"))):
        raise InputError(
            f"{spec!r} is not a function: write module:function, such as my_rewards:politeness, or "
            "module:function(text)"
        )
    module = load_module(module_name, spec)
    function = getattr(module, function_name, None)
    if function is None or not callable(function):
        names = [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]
        near = get_close_matches(function_name, names, n=1) or names[:5]
        hint = f"; it has {', '.join(near)}" if near else "; it has none"
        kind = "class" if function_name[:1].isupper() else "function"  # as Python names them
        raise InputError(f"{spec}: module {module_name} has no {kind} {function_name}{hint}")
    return _made(function, text[:-1], spec) if bracket else function


def _made(function: Callable[..., Any], text: str, spec: str) -> Callable[..., Any]:
    """Call the function with a text once, and return the function that it makes; again after its module is reloaded."""
    if _made_before.get(spec, (None,))[0] is function:
        return _made_before[spec][1]
    try:
        made = function(text)
    except InputError as error:
        raise InputError(f"{spec}: {error}") from error
    except (Exception, SystemExit) as error:  # any error of the user's function
        raise InputError(f"{spec}: calling it with {text!r} raised {named_error(error)}") from error
    if not callable(made):
        raise InputError(f"{spec}: returned a {type(made).__name__} for {text!r}; it must return a function")
    _made_before[spec] = function, made
    return made


def load_module(module_name: str, place: str) -> ModuleType:
    """Import a module, installed or in the working directory; an InputError starts with `place`."""
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)  # after the installed packages, so that a local file cannot replace one of them
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and (module_name == error.name or module_name.startswith(f"{error.name}.")):
            raise InputError(
                f"{place}: no module {error.name} in the working directory {here} or among the installed packages"
            ) from error
        raise InputError(f"{place}: {module_name} imports {error.name}, which is not installed") from error
    except (Exception, SystemExit) as error:  # any error of the user's module; a script may exit
        raise InputError(f"{place}: importing {module_name} raised {named_error(error)}") from error


def named_error(error: BaseException) -> str:
    """Return the type and the first line of an error in the user's code."""
    return f"{type(error).__name__}: {error}".strip().removesuffix(":")
