"""Steps within limits: many arms at once move as each alone, and the arm of a run moves as one that is deployed."""

import numpy as np
import pytest

from tercet.arm.play.environments import EnvFactory
from tercet.arm.robot.pilot import joints_for
from tercet.arm.robot.safety import Guard
from tercet.arm.sim import kinematics
from tercet.arm.sim.env import ArmEnv, make_env
from tercet.arm.sim.motion import Limits, Motion, at_rest, limits_of, outside, toward
from tercet.config.load import load_arm_config
from tercet.config.robot import MotionConfig
from tercet.errors import InputError

LIMITS = limits_of(MotionConfig(), kinematics.LIMITS)
SLOW = limits_of(MotionConfig(max_speed=20, max_acceleration=100, gripper_speed=0.02), kinematics.LIMITS)


def wild(num_steps: int, num_arms: int) -> np.ndarray:
    """Wanted joints, some of them far outside of every limit."""
    chance = np.random.default_rng(0)
    wanted = chance.uniform(-2, 2, (num_steps, num_arms, 6))
    wanted[..., 5] *= 0.03
    return wanted


@pytest.mark.parametrize("limits", [LIMITS, SLOW])
def test_many_arms_move_as_each_alone(limits: Limits) -> None:
    tips = np.array([(0.19, 0.0, 0.1), (0.15, -0.1, 0.03), (0.3, 0.2, 0.1)])  # the last is outside the workspace
    starts = np.column_stack([kinematics.inverse(tips, np.zeros(3)), np.full(3, 0.02)])
    together, alone = at_rest(starts, limits), [at_rest(start, limits) for start in starts]
    assert together.leeway[-1] > 0.04 and not together.leeway[:2].any()
    for wanted in wild(25, 3):
        together = toward(together, wanted, limits)
        alone = [toward(one, row, limits) for one, row in zip(alone, wanted, strict=True)]
        for name in vars(together):
            np.testing.assert_array_equal(getattr(together, name), [getattr(one, name) for one in alone], name)
        beyond = outside(together.position, limits.workspace)
        assert (beyond <= together.leeway + 1e-9).all()


def played(env: ArmEnv, actions: np.ndarray) -> np.ndarray:
    """Joints (t, n, 6) after each step."""
    return np.stack([(env.step(action), env.joints())[1] for action in actions])


def bold(num_steps: int, num_envs: int) -> np.ndarray:
    """Actions that change seldom, so that arms become fast and reach the walls."""
    return np.repeat(np.random.default_rng(1).choice([-1.0, 0.4, 1.0], (num_steps // 5, num_envs, 5)), 5, 0)


def test_the_arm_of_a_run_moves_as_behind_the_guard_of_a_robot() -> None:
    env = ArmEnv("reach", 1, seed=3, limits=SLOW, num_threads=1)
    robot = ArmEnv("reach", 1, seed=3, num_threads=1)
    guard = Guard(SLOW, robot.joints()[0], deadline=1.0, max_lag=9.0)
    for action in bold(40, 1):
        env.step(action)
        wanted = joints_for(guard.position, action)
        sent = guard.step(wanted, robot.joints()[0], seen_at=0.0, now=0.0).position
        robot.servo(sent[None])
        np.testing.assert_allclose(env.commanded_joints()[0], sent, atol=1e-9)
        np.testing.assert_allclose(env.joints(), robot.joints(), atol=1e-9)
        np.testing.assert_allclose(env.readings().target, robot.readings().target, atol=1e-9)


def test_commands_of_a_run_keep_the_limits_and_other_runs_do_not() -> None:
    def fastest(limits: Limits | None) -> np.ndarray:
        env = ArmEnv("place", 8, limits=limits, num_threads=1)
        sent = [env.commanded_joints()]
        for action in bold(30, 8):
            env.step(action)
            sent.append(env.commanded_joints())
        return np.abs(np.diff(np.stack(sent), axis=0)).max((0, 1)) / SLOW.period

    assert (fastest(SLOW) <= SLOW.speed + 1e-9).all()
    assert (fastest(None) > SLOW.speed).all()


def test_a_fresh_episode_and_a_restored_one_begin_at_rest_or_in_motion_as_they_were() -> None:
    env = ArmEnv("lift", 4, limits=SLOW, num_threads=1)
    actions = bold(20, 4)
    played(env, actions[:10])
    snapshot = env.snapshot()
    before = played(env, actions[10:])
    env.restore(snapshot)
    np.testing.assert_array_equal(played(env, actions[10:]), before)
    env.reset(options={"reset_mask": np.array([True, False, False, False])})
    fresh = env.commanded_joints()[0]
    np.testing.assert_allclose(fresh, env.joints()[0], atol=1e-9)
    env.step(actions[0])
    assert np.abs(env.commanded_joints()[0] - fresh).max() <= (SLOW.acceleration * SLOW.period**2).max() + 1e-9


def test_a_config_turns_the_limits_on() -> None:
    overrides = ["safety.in_training=true", "safety.max_speed=20"]
    for extra, speed in (([], None), (overrides, np.radians(20))):
        with EnvFactory.of(load_arm_config("lift", extra)).open(2) as env:
            assert (env.limits.speed[0] if env.limits else None) == speed


def test_limits_are_refused_for_other_environments() -> None:
    with pytest.raises(InputError, match=r"safety\.in_training is only for tasks of the built-in arm"):
        make_env("Pendulum-v1", 1, limits=LIMITS)


def test_an_arm_outside_its_workspace_only_comes_back() -> None:
    start = np.append(kinematics.inverse(np.array([[0.3, 0.0, 0.1]]), np.zeros(1))[0], 0.02)
    motion, home = at_rest(start, LIMITS), start.copy()
    home[:5] = kinematics.inverse(np.array([[0.19, 0.0, 0.1]]), np.zeros(1))[0]
    leeways = [float(motion.leeway)]
    for _ in range(60):
        motion = toward(motion, home, LIMITS)
        leeways.append(float(motion.leeway))
    assert leeways[0] == pytest.approx(0.04) and leeways[-1] < 1e-9 and (np.diff(leeways) <= 0).all()
    assert isinstance(motion, Motion)


@pytest.mark.parametrize("move", [(0.6, 0.0, 0.6), (0.6, -0.6, 0.2), (-0.6, 0.6, 0.0), (0.3, 0.6, 0.2)])
def test_fingers_just_above_the_table_move_along_it(move: tuple[float, float, float]) -> None:
    """Joints that move as fast as each can would dip the fingers into the table, and the arm would stand still."""
    for start in ([0.19, -0.045, 0.0086], [0.17, 0.02, 0.0083], [0.2, 0.04, 0.0095]):
        motion = at_rest(np.append(kinematics.inverse(np.array([start]), np.full(1, 0.3))[0], 0.01), LIMITS)
        action = np.array([[*move, 0.0, -1.0]])
        for _ in range(10):
            motion = toward(motion, joints_for(motion.position, action), LIMITS)
            assert outside(motion.position, LIMITS.workspace) < 1e-9
        tip = kinematics.forward(motion.position[None, :5]).tip[0]
        assert (
            np.linalg.norm(tip - start) > 0.025
        )  # of 0.1 to 0.17 m that were asked for, from rest and up to the edges
