"""Who takes over from a policy on an arm, and marks its tries: a person at the keyboard, or a stated rule."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from tercet.arm.robot import control
from tercet.arm.robot.simulated import SimulatedArm
from tercet.arm.sim.physics import STEP_SECONDS

MARKS_HELP = "marks: g ends a try as good, b as bad, x drops it, q ends the command; what was finished is kept"
_GIVES_UP = round(2.0 / STEP_SECONDS)  # control steps
_AS_FAST = 10  # control steps; a smaller difference is not noticed
_NEARER = 0.005  # metres (as `Task.progress` counts) by which the task must come nearer within the delay


@dataclass(frozen=True)
class Standing:
    """What a person remembers of a try when they compare it with another."""

    success: bool
    with_help: bool
    num_ticks: int


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

    def compare(self, before: Standing, now: Standing) -> float | None:
        """Return 1 if the try that ended now was better than the one before it, 0 if worse, 0.5 if equal, or None."""
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

    def compare(self, before: Standing, now: Standing) -> float | None:
        """Ask which was better."""
        self._say("which was better? 1 the try before, 2 this one, = equal, s cannot tell")
        while True:
            for key in self.keys():
                if key in _ANSWERS:
                    return _ANSWERS[key]
            self._clock.wait_until(self._clock.now() + 0.1)


_ANSWERS = {"1": 0.0, "2": 1.0, "=": 0.5, "s": None}
_MARKS = {control.GO: True, control.BAD: False, control.DISCARD: None}


class SimulatedPerson:
    """A rule in place of a person, who sees how near the task is (`Task.progress`).

    If the task has not come 5 mm nearer within `delay` seconds, they take over, and steer until the try ends. If they
    bring it no nearer for two seconds, as when the cube lies out of reach, they end it as bad. With the probability
    `errors` they miss that they are needed and notice it `delay` later, take over needlessly at some step of a try,
    mark a try wrongly, or prefer the worse of two tries.
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
        """Take over, or give up, when it is time."""
        self._step += 1
        if self._steers:
            return control.BAD if self._waited() >= _GIVES_UP else ""
        if not self._takes_over():
            return ""
        self._steers = True
        self._watch_anew()
        return control.TAKE

    def mark(self, ended: str, *, success: bool) -> bool | None:
        """Mark a try by its success."""
        return success is not bool(self._chance.random() < self._errors)

    def compare(self, before: Standing, now: Standing) -> float | None:
        """Prefer success without help to success with it, and this to failure; of equal ones that which was faster."""
        errs = self._chance.random() < self._errors
        first, second = (one.success * (2 - one.with_help) for one in (before, now))
        if first == second:
            first, second = (-one.num_ticks if one.success else 0 for one in (before, now))
            if abs(first - second) < _AS_FAST:
                return 0.5
        return float((second > first) is not bool(errs))

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
