"""Tries of a policy on an arm, behind the guard, in which a person may take over; each is stored as soon as it ends."""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from safetensors.torch import load_file, save_file
from torch import Tensor

from tercet.arm.robot import calibration, control, dry_run
from tercet.arm.robot.deploy import CONNECT, SUPPORT_HELP, leader_arm, ready
from tercet.arm.robot.devices import Arm, Robot, Teacher, find_cube, find_robot, find_teacher
from tercet.arm.robot.person import Keyboard, Person, SimulatedPerson, Standing
from tercet.arm.robot.pilot import Pilot, StateEstimator, seen, start_joints, wanted_action
from tercet.arm.robot.safety import Guard
from tercet.arm.robot.simulated import SimulatedArm
from tercet.arm.sim.arms import find_arm
from tercet.arm.sim.cameras import Picture
from tercet.arm.sim.physics import STEP_SECONDS
from tercet.arm.sim.tasks.task import Task
from tercet.config.robot import RobotConfig
from tercet.errors import FailedError, InputError

_ENDS = (control.DISCARD, control.QUIT, control.GO, control.BAD)
_ARRAYS, _FACTS, _PICTURES = "steps.safetensors", "try.json", "pictures."


@dataclass(frozen=True)
class MarkedTry:
    """The steps of a try in which somebody steered, with their mark.

    `actions` are those that were wanted, before the guard; `num_ticks` counts all control steps, and `limits` those
    whose command the guard changed, by the limit. `pictures` are those of each camera of the policy, before each step
    and in the policy's size. `better` is 1 if the person preferred this try to the one before it,
    0 if they preferred that one, 0.5 if both were equal, and None if they did not say.
    """

    observations: Float[Tensor, "t o"]
    actions: Float[Tensor, "t a"]
    by_person: Bool[Tensor, " t"]
    good: bool
    success: bool
    num_ticks: int
    limits: Mapping[str, int]
    better: float | None = None
    pictures: tuple[UInt8[Tensor, "t _ _ 3"], ...] = ()

    @property
    def num_takeovers(self) -> int:
        """Number of times that the person took over from the policy."""
        return len(self.takeovers())

    def takeovers(self) -> list[list[int]]:
        """Return the first step and the end of each stretch in which the person steered."""
        steers = torch.nn.functional.pad(self.by_person.int(), (1, 1))
        begun, ended = ((steers.diff() == sign).nonzero().flatten().tolist() for sign in (1, -1))
        return [list(one) for one in zip(begun, ended, strict=True)]

    def save(self, folder: Path) -> None:
        """Write the files of a try into `folder`."""
        arrays = {"observations": self.observations, "actions": self.actions, "by_person": self.by_person}
        of_cameras = {f"{_PICTURES}{number}": images for number, images in enumerate(self.pictures)}
        save_file(arrays | of_cameras, folder / _ARRAYS)
        names = ("good", "success", "num_ticks", "limits", "better")
        (folder / _FACTS).write_text(json.dumps({name: getattr(self, name) for name in names}, indent=1) + "\n")

    @classmethod
    def load(cls, folder: Path) -> "MarkedTry":
        """Read a try that `save` wrote. Its pictures stay in the file, and memory holds those that are in use."""
        arrays = load_file(folder / _ARRAYS)  # maps the file
        num_cameras = sum(name.startswith(_PICTURES) for name in arrays)
        pictures = tuple(arrays.pop(f"{_PICTURES}{number}") for number in range(num_cameras))
        return cls(**arrays, **json.loads((folder / _FACTS).read_text()), pictures=pictures)


class Rig:
    """A connected arm with the person who watches it. The commands of every try pass a guard of their own."""

    def __init__(
        self,
        config: RobotConfig,
        task: Task,
        arm: Arm,
        robot: Robot,
        teacher: Teacher | None,
        person: Person,
        clock: control.Clock,
        say: Callable[[str], None],
    ) -> None:
        self.config, self._task, self._arm, self._robot, self._say = config, task, arm, robot, say
        self._teacher, self._person, self._clock = teacher, person, clock

    def attempt(self, pilot: Pilot, *, num_ticks: int, start_seed: int, person_seed: int) -> MarkedTry | None:
        """Run one try of at most `num_ticks` steps and have it marked; None if the person drops it.

        The simulated arm starts where `start_seed` says. A real one moves to its start after the person has put
        everything back. Raise KeyboardInterrupt if the person ends the command, FailedError if the arm was stopped.
        """
        if isinstance(self._robot, SimulatedArm):
            self._robot.env.reset(seed=start_seed)
        elif not ready("put everything back in place; g continues, q ends", self._person.keys, self._clock, self._say):
            raise KeyboardInterrupt
        safety = self.config.safety
        limits, max_lag = calibration.limits(self.config), float(np.radians(safety.max_lag))
        guard = Guard(limits, self._arm.read()[0], deadline=safety.deadline, max_lag=max_lag)
        if not isinstance(self._robot, SimulatedArm):
            start = start_joints(self.config.start, self._task.start_opening)
            if not control.approach(self._arm, guard, start, self._person.keys, self._clock, speed=self.config.speed):
                raise KeyboardInterrupt
        self._person.begin(person_seed)
        ticks: list[control.Tick] = []
        pictures: list[tuple[Picture, ...]] = []

        def watch(tick: control.Tick) -> None:
            if tick.is_steered:
                pictures.append(seen(tick.robot_observation, pilot.policy.cameras))
            ticks.append(replace(tick, robot_observation={}))  # the robot's own pictures are larger

        ended = control.drive(
            self._arm,
            guard,
            control.Operators(pilot, leader_arm(self.config, self._teacher, guard), self._person.keys),
            StateEstimator(
                self._task, np.array(self.config.goal), find_cube(self.config.cube), find_arm(self.config.model)
            ),
            self._clock,
            seconds=num_ticks * STEP_SECONDS - 1e-6,
            watch=watch,
            until_success=True,
            ends=_ENDS,
        )
        if ended == control.QUIT:
            raise KeyboardInterrupt
        if guard.stopped:
            raise FailedError(f"the arm was stopped ({guard.stopped}), and this try is not kept; look at the arm first")
        success = bool(ticks) and ticks[-1].success
        good = self._person.mark(ended, success=success)
        if not pictures or good is None:  # nobody steered, or it was dropped
            return None
        one = _marked(ticks, speed=pilot.speed, good=good, success=success)
        return replace(
            one, pictures=tuple(torch.from_numpy(np.stack(images)) for images in zip(*pictures, strict=True))
        )

    def compared(self, before: MarkedTry, now: MarkedTry) -> MarkedTry:
        """Ask which of two successive tries was better, and return the second one with the answer."""
        return replace(now, better=self._person.compare(_standing(before), _standing(now)))


@contextmanager
def rig(
    config: RobotConfig, task: Task, keys: Callable[[], str], clock: control.Clock, say: Callable[[str], None]
) -> Iterator[Rig]:
    """Connect the arm and the leader arm of a config, and disconnect them at the end.

    Raise KeyboardInterrupt if the person does not want to connect a real arm.
    """
    robot = find_robot(config, task=task.name, seed=0)
    teleoperator = find_teacher(config, robot)
    if config.person == "simulated" and not (isinstance(robot, SimulatedArm) and teleoperator):
        raise InputError("person=simulated: needs robot=simulated and teacher=simulated")
    if not isinstance(robot, SimulatedArm):
        say(SUPPORT_HELP)
        if not ready(CONNECT, keys, clock, say):
            raise KeyboardInterrupt
    with ExitStack() as stack:
        arm = stack.enter_context(Arm(robot, config))
        teacher = stack.enter_context(Teacher(teleoperator, config)) if teleoperator else None
        if config.person == "simulated" and isinstance(robot, SimulatedArm):
            person: Person = SimulatedPerson(robot, delay=config.person_delay, errors=config.person_errors)
        else:
            person = Keyboard(keys, clock, say)
            for line in dry_run.reading_lines(*arm.read()):
                say(line)
        yield Rig(config, task, arm, robot, teacher, person, clock, say)


def _standing(one: MarkedTry) -> Standing:
    return Standing(one.success, one.num_takeovers > 0, one.num_ticks)


def _marked(ticks: list[control.Tick], *, speed: float, good: bool, success: bool) -> MarkedTry:
    """Keep the steps in which somebody steered; a movement of the policy counts as it was before `speed` scaled it."""
    kept = [tick for tick in ticks if tick.is_steered]
    actions = np.stack([wanted_action(tick.before, tick.wanted) for tick in kept if tick.wanted is not None])
    by_person = np.array([tick.who == "person" for tick in kept])
    actions[~by_person, :-1] = np.clip(actions[~by_person, :-1] / speed, -1.0, 1.0)
    limits = Counter(reason for tick in ticks for reason in tick.reasons)
    limits["any"] = sum(bool(tick.reasons) for tick in ticks)
    return MarkedTry(
        torch.from_numpy(np.stack([tick.observation for tick in kept])).float(),
        torch.from_numpy(actions).float(),
        torch.from_numpy(by_person),
        good,
        success,
        len(ticks),
        dict(sorted(limits.items())),
    )
