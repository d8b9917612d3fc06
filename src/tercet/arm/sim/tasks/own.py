"""Tasks of the user: a class derived from `Task`, named as module:class. What it returns is checked at every call."""

import hashlib
import inspect
import re
from dataclasses import MISSING, fields, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tercet.arm.sim.kinematics import Array
from tercet.arm.sim.observations import Layout, Part
from tercet.arm.sim.readings import Readings
from tercet.arm.sim.scene import OPENING
from tercet.arm.sim.tasks.task import NUM_DRAWS, Command, Mask, Start, Task
from tercet.arm.sim.workspace import WORKSPACE
from tercet.config.functions import load_function, named_error
from tercet.errors import FailedError, InputError

_REQUIRED = ("look_for", "goals", "success", "progress", "reward")
_SETTINGS = ("look_for", "has_cube", "start_opening", "cube_area", "turns_cube", "goal_above_cube", "shown_height")
_WIDTHS = {"tip": 3, "cube": 3, "goal": 3, "move": 3}  # columns of the fields of Start and Command that are points
_NUM_TRIED = 3
_MEASURED = [one.name for one in fields(Readings) if one.default is MISSING]  # without what only instructions have


def own_task(name: str) -> "OwnTask | None":
    """Return the task that `module:class` names, or None if it names something else, such as an environment.

    Raise InputError if the module cannot be loaded or the task is incomplete, FailedError if it fails at its starts.
    """
    if ":" not in name or re.search(r"-v\d+$", name):  # module:Id-v0 is an environment of Gymnasium
        return None
    found = load_function(name)
    return _tried(name, found) if isinstance(found, type) and issubclass(found, Task) else None


@cache
def _tried(name: str, made: type[Task]) -> "OwnTask":
    task = OwnTask(name, made)
    task.try_at_starts()
    return task


class OwnTask(Task):
    """A task of the user. FailedError names the method, what it returned and what it must return."""

    def __init__(self, name: str, made: type[Task]) -> None:
        missing = [one for one in _REQUIRED if getattr(made, one, None) is getattr(Task, one, None)]
        if "goals" in missing and made.start is not Task.start:
            missing.remove("goals")
        if missing:
            raise InputError(
                f"{name}: the task has no {', '.join(missing)}; docs/arm-environment.md says what a task must state"
            )
        if made.instructions:
            raise InputError(f"{name}: a task of yours has one cube and no instructions; lift-two has both")
        try:
            self._task = made()
        except (Exception, SystemExit) as error:  # a user's class can raise anything, and may call sys.exit
            raise InputError(f"{name}: creating the task raised {named_error(error)}") from error
        self.name = self._task.name = name
        for setting in _SETTINGS:
            setattr(self, setting, getattr(self._task, setting))
        self.observation = self._checked_layout(self._task.observation)

    def digest(self) -> str:
        """Return the SHA-256 of the file of the class, by which a run notices that the task has changed."""
        return hashlib.sha256(Path(inspect.getfile(type(self._task))).read_bytes()).hexdigest()

    def start(self, draws: Array) -> Start:
        """Compute starts, with the hand in the workspace."""
        start = self._record("start", Start, len(draws), draws)
        low, high = WORKSPACE.T - np.array([[1e-9], [-1e-9]])
        outside = ((start.tip < low) | (start.tip > high)).any(1) | (start.opening < 0) | (start.opening > OPENING)
        if outside.any():
            row = int(np.flatnonzero(outside)[0])
            raise FailedError(
                f"{self.name}: start puts the hand at {start.tip[row].tolist()} with fingers at "
                f"{start.opening[row]:g}; it must be in {WORKSPACE.tolist()}, and the fingers from 0 to {OPENING}"
            )
        return start

    def success(self, now: Readings) -> Mask:
        """Return the user's answer, True or False for each environment."""
        done = self._call("success", now)
        if not (isinstance(done, np.ndarray) and done.shape == now.turn.shape and done.dtype == np.bool_):
            raise self._wrong("success", done, f"an array of bool of shape {now.turn.shape}")
        return done.copy()  # the environment changes it

    def progress(self, now: Readings) -> Array:
        """Return the user's number for each environment."""
        return self._numbers("progress", self._call("progress", now), now.turn.shape)

    def reward(self, now: Readings, done: Mask) -> Array:
        """Return the user's number for each environment."""
        return self._numbers("reward", self._call("reward", now, done), now.turn.shape).copy()

    def expert(self, now: Readings) -> Command:
        """Return the user's command."""
        return self._record("expert", Command, len(now.turn), now)

    def try_at_starts(self) -> None:
        """Call every method at a few starts. FailedError if a result is wrong, InputError if it mixes environments."""
        start = self.start(np.random.default_rng(0).random((_NUM_TRIED, NUM_DRAWS)))
        self._check_goal(start)
        now = _readings_at(start)
        together = self._results(now)
        if type(self._task).expert is not Task.expert:
            self.expert(now)
        for row in range(_NUM_TRIED):
            alone = replace(now, **{name: getattr(now, name)[row : row + 1] for name in _MEASURED})
            for what, single in self._results(alone).items():
                if not np.allclose(together[what][row], single[0], atol=1e-6):
                    raise InputError(
                        f"{self.name}: {what} of an environment changes with the other environments: "
                        f"{together[what][row].tolist()} among {_NUM_TRIED}, {single[0].tolist()} alone; compute each "
                        "row from its own row (axis=1)"
                    )
        moved = replace(now, cube=now.cube + 0.01, cube_turn=now.cube_turn + 0.1, goal=now.goal + 0.01)
        own, before = np.array(self.observation.robot), together["observation"]
        if not np.array_equal(self.observation.build(moved)[:, own], before[:, own]):
            changed = (self.observation.build(moved) != before).any(0) & own
            names = ", ".join(np.array(self.observation.names)[changed])
            raise InputError(
                f"{self.name}: {names} changes with the cube or the goal, which the robot does not measure on itself; "
                "leave out robot=True"
            )

    def _results(self, now: Readings) -> dict[str, NDArray[Any]]:  # Any: bool, float32 or float64
        done = self.success(now)
        numbers = {"progress": self.progress(now), "reward": self.reward(now, done)}
        return {
            "success": done,
            **numbers,
            "observation": self.observation.build(now),
        }  # reward may follow from success

    def _check_goal(self, start: Start) -> None:
        """Raise InputError if the goal in the simulation is not that of a real arm, which `goal_above_cube` sets."""
        above = self.goal_above_cube
        if above is None:
            return
        if not self.has_cube:
            raise InputError(f"{self.name}: goal_above_cube={above:g} without a cube; set it to None, or has_cube=True")
        away = start.goal - start.cube
        wrong = np.abs(away - (0.0, 0.0, above)).max(1) > 1e-6
        if wrong.any():
            x, y, z = 1000 * away[int(np.flatnonzero(wrong)[0])]
            raise InputError(
                f"{self.name}: goal_above_cube={above:g}, but goals puts the goal at {x:.0f}, {y:.0f}, {z:.0f} mm from "
                "the cube; a real arm would have another goal than the simulation, so make the two agree"
            )

    def _checked_layout(self, layout: object) -> Layout:
        """Return the layout with checked parts. InputError if an arm could not observe it."""
        if not isinstance(layout, Layout):
            raise InputError(f"{self.name}: observation is {type(layout).__name__}; it must be a Layout of parts")
        names = [part.name for part in layout.parts]
        if len(set(names)) < len(names):
            raise InputError(
                f"{self.name}: parts of the observation have the same name ({', '.join(names)}); rename one"
            )
        for part in layout.parts:
            if part.size not in (1, 3):
                raise InputError(f"{self.name}: {part.name} has {part.size} entries; a part has 1, or 3 for a point")
        if list(layout.robot) != sorted(layout.robot, reverse=True):
            raise InputError(f"{self.name}: parts of the observation with robot=True must come first, as in ARM")
        return Layout(tuple(replace(part, read=partial(self._read, part)) for part in layout.parts))

    def _read(self, part: Part, now: Readings) -> Array:
        shape = now.turn.shape if part.size == 1 else (*now.turn.shape, part.size)
        try:
            values = part.read(now)
        except (Exception, SystemExit) as error:  # as in `_call`
            raise FailedError(f"{self.name}: the part {part.name} raised {named_error(error)}") from error
        return self._numbers(f"the part {part.name}", values, shape)

    def _record(self, method: str, kind: type[Any], count: int, *given: object) -> Any:  # Any: Start or Command
        """Return the result of a method, of this kind and with checked fields."""
        result = self._call(method, *given)
        if not isinstance(result, kind):
            raise self._wrong(method, result, f"a {kind.__name__}")
        for field in fields(kind):
            if field.default is None:  # of tasks with instructions
                continue
            shape = (count, _WIDTHS[field.name]) if field.name in _WIDTHS else (count,)
            self._numbers(f"{method}, {field.name}", getattr(result, field.name), shape)
        return result

    def _call(self, method: str, *given: object) -> Any:  # Any: the user's answer, checked by the caller
        try:
            return getattr(self._task, method)(*given)
        except (InputError, FailedError):
            raise
        except (Exception, SystemExit) as error:  # a user's method can raise anything, and may call sys.exit
            raise FailedError(f"{self.name}: {method} raised {named_error(error)}") from error

    def _numbers(self, what: str, values: Any, shape: tuple[int, ...]) -> Array:  # Any: the user's answer
        needed = f"finite numbers of shape {shape}"
        if not (isinstance(values, np.ndarray) and values.shape == shape and values.dtype.kind in "iuf"):
            raise self._wrong(what, values, needed)
        if not np.isfinite(values).all():
            raise self._wrong(what, values, needed)
        return values

    def _wrong(self, what: str, found: Any, needed: str) -> FailedError:  # Any: the user's answer
        is_array = isinstance(found, np.ndarray)
        shown = f"{found.dtype} of shape {found.shape}, {found.tolist()}" if is_array else repr(found)
        return FailedError(f"{self.name}: {what} gave {shown[:200]}; it must give {needed}")


def _readings_at(start: Start) -> Readings:
    """Return what is measured at starts, at rest."""
    zero = np.zeros_like(start.tip)
    return Readings(
        tip=start.tip,
        aside=zero,
        turn=zero[:, 0],
        opening=start.opening,
        target=start.tip,
        target_turn=zero[:, 0],
        target_opening=start.opening,
        cube=start.cube,
        cube_turn=start.cube_turn,
        cube_velocity=zero,
        goal=start.goal,
    )
