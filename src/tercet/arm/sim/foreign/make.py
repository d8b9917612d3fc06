"""Create a foreign environment by its name."""

import contextlib
import re
from collections.abc import Callable
from difflib import get_close_matches
from functools import cache
from importlib.util import find_spec
from typing import Any

import gymnasium

from tercet.arm.sim import opengl
from tercet.arm.sim.tasks.builtin import TASKS
from tercet.config.functions import load_function, load_module, named_error
from tercet.errors import InputError, first_line

Env = gymnasium.Env[Any, Any]  # Any: foreign observations and actions, checked in checks.py

METAWORLD = re.compile(r"(?:metaworld|Meta-World)/(?:MT1/)?(?P<task>[\w-]+-v\d+)")
_REGISTERING = ("gymnasium_robotics", "metaworld")  # packages that register their ids when they are imported


def make(name: str, horizon: int) -> Env:
    """Create a Meta-World task, call the user's function, or create an environment by its Gymnasium id."""
    with contextlib.suppress(Exception):  # some draw as they are made; without OpenGL they say so themselves
        opengl.choose_backend()
    metaworld = METAWORLD.fullmatch(name)
    if metaworld:
        task = metaworld["task"]
        _need("metaworld", name)
        try:
            return metaworld_task(task).train_classes[task](render_mode="rgb_array")
        except ValueError as error:  # Meta-World's error for an unknown task
            raise InputError(f"env={name}: unknown task of Meta-World: {first_line(error)}") from error
    if ":" in name and not re.search(r"-v\d+$", name):
        function: Callable[[], Any] = load_function(name)
        try:
            env = function()
        except (Exception, SystemExit) as error:  # a user's function can raise anything, and may call sys.exit
            raise InputError(f"env={name}: the function raised {named_error(error)}") from error
        if not isinstance(env, gymnasium.Env):
            raise InputError(f"env={name}: returned {type(env).__name__}, not a gymnasium.Env")
        return env
    return _registered(name, horizon)


@cache
def metaworld_task(task: str) -> Any:  # Any: an optional package's
    """Return a Meta-World task with its goals. Cached, because drawing the goals is slow."""
    from metaworld import MT1  # pyright: ignore[reportMissingImports]  # an extra

    return MT1(task, seed=0)


def _registered(name: str, horizon: int) -> Env:
    """Create an environment by its id. For `module:Id-v0`, the module that registers it is imported first."""
    module, _, key = name.rpartition(":")
    if module:
        load_module(module, f"env={name}")
    for package in _REGISTERING:
        if key not in gymnasium.registry and find_spec(package):
            __import__(package)
            if package == "gymnasium_robotics":
                gymnasium.register_envs(__import__(package))
    if key not in gymnasium.registry:
        near = get_close_matches(key, [*TASKS, *gymnasium.registry], n=3, cutoff=0.5)
        hint = f"did you mean {', '.join(near)}?" if near else f"give {', '.join(TASKS)}, or an id of Gymnasium"
        missing = [package for package in _REGISTERING if not find_spec(package)]
        more = f" (for those of {' and '.join(missing)}: pip install 'tercet[robots]')" if missing else ""
        where = f"{module} does not register this environment" if module else "unknown environment"
        raise InputError(f"env={name}: {where}; {hint}{more}")
    settings: dict[str, Any] = {"max_episode_steps": horizon, "disable_env_checker": True}  # Any: of two types
    try:
        try:
            return gymnasium.make(key, render_mode="rgb_array", **settings)
        except TypeError:  # it has no render_mode, or another error, which is then raised again
            return gymnasium.make(key, **settings)
    except (Exception, SystemExit) as error:  # an environment's constructor can raise anything
        raise InputError(f"env={name}: could not be created: {named_error(error)}") from error


def _need(package: str, name: str) -> None:
    if not find_spec(package):
        raise InputError(f"env={name}: needs {package}, which is not installed; pip install 'tercet[robots]'")
