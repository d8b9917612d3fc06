"""Who takes over from a policy on an arm, and marks its tries: a person at the keyboard, or a stated rule."""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import numpy as np

from tercet.arm.robot import control
from tercet.arm.robot.simulated import SimulatedArm
from tercet.arm.sim.physics import STEP_SECONDS

MARKS_HELP = "marks: g ends a try as good, b as bad, x drops it, q ends the command; what was finished is kept"
_NEARER = 0.005  # metres (as `Task.progress` counts) by which the task must come nearer within the delay


@runtime_checkable
class Person(Protocol):
    """Watches the tries of a policy. A leader arm (`control.LeaderArm`) says where the person steers."""

    def begin(self, seed: int) -> None:
        """Start to watch a try."""
        ...

    def keys(self) -> str:
        """Return the keys that were pressed since the last call; called once in each step."""
        ...

    def mark(self, ended: str, *, success: bool) -> bool | None:
        """Return True for a good try, False for a bad one, and None to drop it; `ended` is the key that ended it."""
        ...


class Keyboard:
    """A person at the keyboard."""

    def __init__(self, keys: Callable[[], str], clock: control.Clock, say: Callable[[str], None]) -> None:
        self.keys, self._clock, self._say = keys, clock, say

    def begin(self, seed: int) -> None:
        """Do nothing."""

    def mark(self, ended: str, *, success: bool) -> bool | None:
        """Ask for a mark, unless the key that ended the try is one or the task is done."""
        if success and not ended:
            return True
        if ended not in _MARKS:
            self._say("was it good? g good, b bad, x drops it")
        while ended not in _MARKS:
            ended = next((key for key in self.keys() if key in _MARKS), "")
            self._clock.wait_until(self._clock.now() + 0.1)
        return _MARKS[ended]


_MARKS = {control.GO: True, control.BAD: False, control.DISCARD: None}


class SimulatedPerson:
    """A rule in place of a person, who sees how near the task is (`Task.progress`).

    If the task has not come 5 mm nearer within `delay` seconds, they take over, and steer until the try ends. With the
    probability `errors` they miss that they are needed and notice it `delay` later, take over needlessly at some step
    of a try, or mark a try wrongly.
    """

    def __init__(self, robot: SimulatedArm, *, delay: float, errors: float) -> None:
        self._env, self._errors = robot.env, errors
        self._patience = max(1, round(delay / STEP_SECONDS))

    def begin(self, seed: int) -> None:
        """Start to watch a try; all errors of it are drawn from `seed`."""
        self._chance = np.random.default_rng(seed)
        is_needless = self._chance.random() < self._errors
        self._needless_at = int(self._chance.integers(1, 60)) if is_needless else -1
        self._step, self._steers = 0, False
        self._watch_anew()

    def keys(self) -> str:
        """Take over when it is time."""
        self._step += 1
        if self._steers or not self._takes_over():
            return ""
        self._steers = True
        return control.TAKE

    def mark(self, ended: str, *, success: bool) -> bool | None:
        """Mark a try by its success."""
        return success is not bool(self._chance.random() < self._errors)

    def _takes_over(self) -> bool:
        is_due = self._waited() >= self._patience
        if is_due and self._chance.random() < self._errors:  # missed
            self._watch_anew()
            is_due = False
        return is_due or self._step == self._needless_at

    def _waited(self) -> int:
        """Return the number of steps in which the task has come no nearer."""
        progress = self._progress()
        if progress > self._best + _NEARER or self._env.task.success(self._env.readings())[0]:
            self._best, self._num_still = max(progress, self._best), 0
        else:
            self._num_still += 1
        return self._num_still

    def _watch_anew(self) -> None:
        self._best, self._num_still = self._progress(), 0

    def _progress(self) -> float:
        return float(self._env.task.progress(self._env.readings())[0])
