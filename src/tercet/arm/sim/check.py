"""Checks of the simulated arm, run by `tercet arm check` and by the tests.

Nothing jams, the workspace is reachable, the experts succeed, forces and speeds stay within limits, the same seed gives
the same bits, and no output is NaN. A fault of the arm would otherwise look like a fault of the algorithm.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tercet.arm.sim import kinematics
from tercet.arm.sim.arms import PRIMITIVE, ArmModel
from tercet.arm.sim.env import ArmEnv
from tercet.arm.sim.kinematics import Array
from tercet.arm.sim.physics import Physics
from tercet.arm.sim.scene import CUBE_HALF, NUM_JOINTS, OPENING
from tercet.arm.sim.tasks.builtin import TASKS
from tercet.arm.sim.workspace import TURN_LIMIT, WORKSPACE

_SETTLED = 30  # steps: 1.5 s
_LEAST_SUCCESS = 0.95
_MOST_DONE = 0.05


@dataclass(frozen=True)
class Tolerances:
    """How far an arm may be from its commands, from which height on it touches nothing, and how hard it grips."""

    joints: float  # rad
    tip: float  # m
    fingers: float  # m
    above: float  # m
    force: float  # N, of a finger at a task


# Gravity pulls the SO-101 down, at the border of the workspace onto the table. Its jaw closes with the full torque of a
# servo.
_TOLERANCES = {
    "primitive": Tolerances(0.005, 0.001, 0.0005, WORKSPACE[2, 0], 80.0),
    "so101": Tolerances(0.04, 0.014, 0.0005, 0.04, 250.0),
}


@dataclass(frozen=True)
class Check:
    """A measured value and its limit."""

    name: str
    measured: float
    limit: float
    least: bool = False  # True if the limit is a minimum

    @property
    def ok(self) -> bool:
        """Return True if the value is within the limit. NaN never is."""
        return self.measured >= self.limit if self.least else self.measured <= self.limit


def run(*, arm: ArmModel = PRIMITIVE, num_states: int = 256, seed: int = 0, num_threads: int = 2) -> list[Check]:
    """Run all checks, with `num_states` starts for each expert."""
    checks = [*workspace(arm), *settling(num_threads, arm), *gripping(num_threads, arm)]
    for task in TASKS:
        checks += expert(task, num_states=num_states, seed=seed, num_threads=num_threads, arm=arm)
    return [*checks, *repeatable(seed, arm), *survives(seed, arm)]


def run_task(
    task: str, *, arm: ArmModel = PRIMITIVE, num_states: int = 256, seed: int = 0, num_threads: int = 2
) -> list[Check]:
    """Run the checks of one task: few of its starts are a success already, and its expert succeeds."""
    return [
        *starts(task, num_states=num_states, seed=seed, arm=arm),
        *expert(task, num_states=num_states, seed=seed, num_threads=num_threads, arm=arm),
    ]


def table(checks: list[Check]) -> str:
    """Format the checks, one per line."""
    width = max(len(check.name) for check in checks)
    lines = (
        f"{'ok  ' if check.ok else 'FAIL'}  {check.name:<{width}}  {check.measured:>9.4g}  "
        f"{'at least' if check.least else 'at most '} {check.limit:g}"
        for check in checks
    )
    return "\n".join(lines)


def workspace(arm: ArmModel = PRIMITIVE) -> Iterator[Check]:
    """Check that every point of the workspace is reachable within the joint limits."""
    points = _grid(15)
    joints = kinematics.inverse(points, np.zeros(len(points)))
    missed = np.linalg.norm(kinematics.forward(joints).tip - points, axis=1).max()
    yield Check("workspace: points missed by (m)", float(missed), 1e-9)
    turned = np.concatenate([_joints(points, np.full(len(points), turn), arm) for turn in _TURNS])
    beyond = np.maximum(arm.limits[:, 0] - turned, turned - arm.limits[:, 1]).max()
    yield Check("workspace: joints beyond their limits by (rad)", float(beyond), 0.0)


def settling(num_threads: int, arm: ArmModel = PRIMITIVE) -> Iterator[Check]:
    """Check that commanded joints and fingers are reached, and that the hand touches nothing on an empty table."""
    most = _TOLERANCES[arm.name]
    points, turns, openings = _commands(most.above)
    physics = Physics([arm.build(num_cubes=0)], len(points), num_threads, arm)
    joints = _joints(points, turns, arm)
    middle = np.tile(WORKSPACE.mean(1), (len(points), 1))
    everywhere = np.ones(len(points), bool)
    start = kinematics.inverse(middle, np.zeros(len(points)))
    physics.place(everywhere, start, np.full(len(points), OPENING / 2), (), turns)
    force = max(float(physics.step(joints, openings).force.max()) for _ in range(_SETTLED))
    physics.close()
    reached = arm.joints(physics.positions)
    yield Check("joints: commanded and actual differ by (rad)", float(np.abs(reached - joints).max()), most.joints)
    aside = np.linalg.norm(kinematics.forward(reached).tip - points, axis=1).max()
    yield Check("tip: commanded and actual differ by (m)", float(aside), most.tip)
    fingers = np.abs(arm.openings(physics.positions) - openings[:, None]).max()
    yield Check("fingers: commanded and actual differ by (m)", float(fingers), most.fingers)
    yield Check("empty table: force on a finger (N)", force, 0.01)


def gripping(num_threads: int, arm: ArmModel = PRIMITIVE) -> Iterator[Check]:
    """Check that closing fingers stop at the sides of a cube, and that an untouched cube does not move."""
    points = _grid(5)
    points = points[points[:, 2] == WORKSPACE[2, 0]]
    count = len(points)
    physics = Physics([arm.build(num_cubes=1)], count, num_threads, arm)
    joints, opening = kinematics.inverse(points, np.zeros(count)), np.full(count, 0.03)
    cube = points + arm.aside(np.zeros(count), opening)
    cube[:, 2] = CUBE_HALF
    physics.place(np.ones(count, bool), joints, opening, (cube,), np.zeros(count))
    for _ in range(_SETTLED):
        physics.step(joints, opening)
    fingers = NUM_JOINTS + arm.num_fingers
    moved = np.abs(physics.positions[:, fingers : fingers + 3] - cube).max()
    yield Check("cube left alone: moved by (m)", float(moved), 0.001)
    yield Check(
        "cube left alone: speed (m/s)", float(np.abs(physics.velocities[:, fingers : fingers + 3]).max()), 0.001
    )
    for _ in range(_SETTLED):
        physics.step(joints, np.zeros(count))
    physics.close()
    gap = np.abs(arm.openings(physics.positions) - CUBE_HALF).max()
    yield Check("fingers closed on a cube: off its sides by (m)", float(gap), 0.0015)


def starts(task: str, *, num_states: int, seed: int, arm: ArmModel = PRIMITIVE) -> Iterator[Check]:
    """Check that an episode has something to do."""
    env = ArmEnv(task, num_states, arm=arm, seed=seed, num_threads=1)
    done = env.task.success(env.readings())
    env.close()
    yield Check(f"{task}: starts that are a success already", float(done.mean()), _MOST_DONE)


def expert(task: str, *, num_states: int, seed: int, num_threads: int, arm: ArmModel = PRIMITIVE) -> Iterator[Check]:
    """Check the success of the scripted expert, and the forces and speeds on its way."""
    env, most = ArmEnv(task, num_states, arm=arm, seed=seed, num_threads=num_threads), _TOLERANCES[arm.name]
    force = speed = broken = 0.0
    done = np.zeros(num_states, bool)
    for _ in range(env.horizon):
        infos = env.step(env.expert_actions())[-1]
        force = max(force, float(infos["force"].max()))
        speed = max(speed, float(np.abs(env.joint_velocities()).max()))
        broken += float(infos["blown_up"].sum())
        done = infos["success"]
    env.close()
    yield Check(f"{task}: success of the expert", float(done.mean()), _LEAST_SUCCESS, least=True)
    yield Check(f"{task}: force on a finger (N)", force, most.force)
    yield Check(f"{task}: speed of a joint (rad/s)", speed, 12.0)
    yield Check(f"{task}: simulations that broke", broken, 0.0)


def repeatable(seed: int, arm: ArmModel = PRIMITIVE) -> Iterator[Check]:
    """Check that the same seed gives the same bits, for any number of threads and environments."""
    one, two = (_random_episode(num_envs, seed, threads, arm) for num_envs, threads in ((8, 1), (24, 2)))
    yield Check("same seed: observations that differ", float((one != two[:, :8]).sum()), 0.0)


def survives(seed: int, arm: ArmModel = PRIMITIVE) -> Iterator[Check]:
    """Check that outputs are finite, under extreme actions and after a simulation diverged."""
    seen = _random_episode(64, seed, 2, arm, size=5.0)
    yield Check("wild actions: entries that are not finite", float((~np.isfinite(seen)).sum()), 0.0)
    env = ArmEnv("lift", 4, arm=arm, seed=seed)
    snapshot = env.snapshot()
    snapshot["physics"][1, 1:] = np.nan
    env.restore(snapshot)
    observations, rewards, terminated, _, infos = env.step(np.zeros((4, 5), np.float32))
    env.close()
    wrong = int((~np.isfinite(observations)).sum() + (~np.isfinite(rewards)).sum())
    wrong += int((terminated != [False, True, False, False]).sum() + (infos["blown_up"] != terminated).sum())
    yield Check("a simulation that broke: wrong entries", float(wrong), 0.0)


def _random_episode(
    num_envs: int, seed: int, num_threads: int, arm: ArmModel, size: float = 1.0
) -> NDArray[np.float32]:
    """Return observations (steps, num_envs, entries). The actions of an environment do not depend on their number."""
    env = ArmEnv("place", num_envs, arm=arm, seed=seed, num_threads=num_threads)
    chance = np.random.default_rng(seed)
    actions = size * chance.uniform(-1, 1, (env.horizon, 64, 5))
    seen = np.stack([env.step(row[:num_envs])[0] for row in actions])
    env.close()
    return seen


_TURNS = (-TURN_LIMIT, 0.0, TURN_LIMIT)


def _joints(points: Array, turns: Array, arm: ArmModel) -> Array:
    """Return the joints (n, 5) of hands at these points, turned as far as the arm can."""
    hands = arm.within(np.column_stack([points, turns, np.zeros(len(points))]))
    return kinematics.inverse(points, hands[:, 3])


def _grid(count: int) -> Array:
    axes = [np.linspace(low, high, count) for low, high in WORKSPACE]
    return np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)


def _commands(above: float) -> tuple[Array, Array, Array]:
    """Return points, turns and openings: all combinations of corners and centres, `above` the table."""
    points = _grid(3)
    points[:, 2] = np.maximum(points[:, 2], above)
    openings = (0.0, OPENING / 2, OPENING)
    combined = [(turn, opening) for turn in _TURNS for opening in openings]
    turns, widths = (np.repeat([pair[k] for pair in combined], len(points)) for k in (0, 1))
    return np.tile(points, (len(combined), 1)), turns, widths
