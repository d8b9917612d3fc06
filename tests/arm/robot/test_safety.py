"""Whatever is wanted, what goes out keeps every limit; and each limit can be seen at work."""

from itertools import chain

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tercet.arm.robot.safety import Guard
from tercet.arm.sim import kinematics
from tercet.arm.sim.motion import Limits, Motion, brake, outside, toward
from tercet.errors import InputError

PERIOD = 0.05
LIMITS = Limits(
    low=np.array([-1.2, -1.5, -1.6, -1.6, -2.5, 0.0]),
    high=np.array([1.2, 1.5, 1.6, 1.6, 2.5, 0.035]),
    speed=np.array([1.5] * 5 + [0.15]),
    acceleration=np.array([10.0] * 5 + [1.5]),
    workspace=np.array([(0.12, 0.26), (-0.14, 0.14), (0.008, 0.16)]),
    period=PERIOD,
)
HOME = np.append(kinematics.inverse(np.array([[0.195, 0.0, 0.1]]), np.zeros(1))[0], 0.02)


def guard(limits: Limits = LIMITS, start: np.ndarray = HOME) -> Guard:
    return Guard(limits, start, deadline=0.15, max_lag=0.3)


def sent(one: Guard, wanted: np.ndarray | None, now: float = 0.0, seen_at: float = 0.0) -> np.ndarray:
    """One step of an arm that follows perfectly."""
    return one.step(wanted, one.position, seen_at=seen_at, now=now).position


def at(tip: tuple[float, float, float], opening: float = 0.02) -> np.ndarray:
    return np.append(kinematics.inverse(np.array([tip]), np.zeros(1))[0], opening)


def turned(angle: float) -> np.ndarray:
    """The wrist rolled."""
    return HOME + angle * np.eye(6)[4]


ANYTHING = st.lists(
    st.one_of(
        st.none(),
        hnp.arrays(np.float64, 6, elements=st.floats(-4, 4)),
        hnp.arrays(np.float64, 6, elements=st.floats(allow_nan=True, allow_infinity=True)),
    ),
    min_size=1,
    max_size=40,
)
# the same point again and again: an arm at full speed into a wall
PUSHES = st.tuples(hnp.arrays(np.float64, 6, elements=st.floats(-4, 4)), st.integers(1, 40)).map(
    lambda p: [p[0]] * p[1]
)


@given(st.lists(st.one_of(ANYTHING, PUSHES), min_size=1, max_size=4).map(lambda parts: list(chain(*parts))))
def test_commands_keep_every_limit_for_any_input(commands: list[np.ndarray | None]) -> None:
    one = guard()
    position, velocity = one.position, np.zeros(6)
    for wanted in commands:
        new = sent(one, wanted)
        assert np.isfinite(new).all()
        assert (new >= LIMITS.low - 1e-6).all() and (new <= LIMITS.high + 1e-6).all()
        assert outside(new[None], LIMITS.workspace)[0] < 1e-6
        speed = (new - position) / PERIOD
        assert (np.abs(speed) <= LIMITS.speed + 1e-6).all()
        assert (np.abs(speed - velocity) <= LIMITS.acceleration * PERIOD + 1e-6).all()
        position, velocity = new, speed


# what an arm says of itself: where it was sent, a little beside, anywhere, or nonsense; and whether a key stops it
SAYS = st.one_of(
    st.just(np.zeros(6)),
    hnp.arrays(np.float64, 6, elements=st.floats(-0.4, 0.4)),
    hnp.arrays(np.float64, 6, elements=st.floats(-4, 4)),
    st.just(np.full(6, np.nan)),
)
KEY = st.sampled_from(["", "", "", "stop", "release"])
ONE = st.tuples(hnp.arrays(np.float64, 6, elements=st.floats(-4, 4)), SAYS, KEY)


@given(st.lists(st.tuples(ONE, st.integers(1, 6)), min_size=1, max_size=12))
def test_commands_keep_joint_limits_and_move_smoothly_for_any_measurement(
    commands: list[tuple[tuple[np.ndarray, np.ndarray, str], int]],
) -> None:
    one = guard()
    position = one.position
    for (wanted, beside, key), times in commands:
        for _ in range(times):
            measured = one.position + beside
            if key == "stop":
                one.stop("by hand", measured)
            elif key == "release":
                one.release()
            new = one.step(wanted, measured, seen_at=0.0, now=0.0).position
            assert np.isfinite(new).all()
            assert (new >= LIMITS.low - 1e-6).all() and (new <= LIMITS.high + 1e-6).all()
            # at the most the lag within which an arm is held where it is
            assert (np.abs(new - position) <= 0.3 + 3 * LIMITS.speed * PERIOD)[:5].all()
            position = new


@given(hnp.arrays(np.float64, 6, elements=st.floats(-4, 4)), st.integers(0, 30))
def test_braking_to_rest_is_always_possible_within_the_limits(wanted: np.ndarray, steps: int) -> None:
    motion = Motion(HOME, np.zeros(6))
    for _ in range(steps):
        motion = toward(motion, wanted, LIMITS)
    for _ in range(10):
        motion = brake(motion, LIMITS)
        assert outside(motion.position[None], LIMITS.workspace)[0] < 1e-6
        assert (motion.position >= LIMITS.low - 1e-6).all() and (motion.position <= LIMITS.high + 1e-6).all()
    assert (motion.velocity == 0).all()


def test_allowed_position_is_reached_without_overshoot() -> None:
    one, goal = guard(), at((0.17, 0.05, 0.06), 0.03)
    path = np.stack([sent(one, goal) for _ in range(40)])
    np.testing.assert_allclose(path[-1], goal, atol=1e-6)
    between = (path - HOME) * np.sign(goal - HOME)
    assert (between <= np.abs(goal - HOME) + 1e-9).all()


def test_a_joint_stops_at_its_limit() -> None:
    wide = Limits(**{**vars(LIMITS), "workspace": np.array([(-1.0, 1.0)] * 3)})
    one = guard(wide)
    reasons = [one.step(turned(9), one.position, seen_at=0.0, now=0.0).reasons for _ in range(60)]
    assert one.position[4] == pytest.approx(2.5)
    assert all("joint limit" in found for found in reasons)


def test_the_hand_stops_at_the_wall_of_the_workspace() -> None:
    one = guard()
    for _ in range(60):
        found = one.step(at((0.3, 0.0, 0.1)), one.position, seen_at=0.0, now=0.0)
    tip = kinematics.forward(found.position[None, :5]).tip[0]
    assert 0.245 < tip[0] < 0.26 + 1e-6
    assert "workspace" in found.reasons


def test_speed_and_acceleration_build_up_to_their_limits() -> None:
    one = guard()
    path = np.stack([HOME, *[sent(one, turned(2)) for _ in range(10)]])
    speeds = np.diff(path[:, 4]) / PERIOD
    np.testing.assert_allclose(speeds[:4], [0.5, 1.0, 1.5, 1.5])  # 10 rad/s^2 each 0.05 s, then 1.5 rad/s
    assert one.step(turned(2), one.position, seen_at=0.0, now=0.0).reasons == ("speed",)


def test_gripper_has_its_own_limits() -> None:
    one = guard()
    assert sent(one, HOME + np.eye(6)[5])[5] - HOME[5] == pytest.approx(1.5 * PERIOD**2)
    for _ in range(20):
        last = sent(one, HOME + np.eye(6)[5])
    assert last[5] == pytest.approx(0.035)


def test_command_that_is_not_finite_is_not_sent() -> None:
    one = guard()
    found = one.step(HOME * np.nan, one.position, seen_at=0.0, now=0.0)
    assert found.reasons == ("not finite",)
    np.testing.assert_array_equal(found.position, HOME)


def test_late_command_brakes_and_holds() -> None:
    one, goal = guard(), turned(1)
    for _ in range(4):
        sent(one, goal)
    found = [one.step(goal, one.position, seen_at=0.0, now=0.2) for _ in range(5)]
    assert all(step.reasons == ("too late",) for step in found)
    np.testing.assert_array_equal(found[3].position, found[4].position)
    assert found[4].position[4] < goal[4] - 0.3
    assert sent(one, goal, now=0.3, seen_at=0.25)[4] > found[4].position[4]  # in time again: it goes on


def test_no_command_holds_the_arm() -> None:
    one = guard()
    for _ in range(3):
        sent(one, turned(1))
    path = np.stack([one.position, *[sent(one, None) for _ in range(6)]])
    np.testing.assert_allclose(np.diff(path[:, 4]) / PERIOD, [1.0, 0.5, 0, 0, 0, 0], atol=1e-9)  # from 1.5, braking


def test_emergency_stop_holds_the_measured_position_until_release() -> None:
    one, goal = guard(), turned(1)
    for _ in range(4):
        sent(one, goal)
    behind = one.position - 0.05 * np.eye(6)[4]
    one.stop("a person's", behind)
    found = [one.step(goal, behind, seen_at=0.0, now=0.0) for _ in range(5)]
    assert all(step.reasons == ("stopped: a person's",) for step in found)
    for step in found:
        np.testing.assert_array_equal(step.position, behind)
    one.release()
    assert sent(one, goal)[4] > behind[4]


@pytest.mark.parametrize(("by_hand", "wrong"), [(True, 0.25), (True, 1.0), (False, 1.0)])
def test_one_wrong_measurement_is_not_held(by_hand: bool, wrong: float) -> None:
    one, goal = guard(), turned(1)
    path = [one.position, *[sent(one, goal) for _ in range(4)]]
    reading = one.position - wrong * np.eye(6)[4]
    if by_hand:
        one.stop("by hand", reading)
    path += [one.step(goal, reading, seen_at=0.0, now=0.0).position for _ in range(6)]
    assert one.stopped
    np.testing.assert_allclose(np.diff(path[4:], axis=0)[:, 4] / PERIOD, [1.0, 0.5, 0, 0, 0, 0], atol=1e-9)


def test_joint_slightly_beyond_its_limit_returns_within_the_speed_limit() -> None:
    start = turned(LIMITS.high[4] + np.radians(2.9) - HOME[4])
    one = guard(start=start)
    np.testing.assert_array_equal(sent(one, None), start)
    path = np.stack([start, *[sent(one, turned(2)) for _ in range(10)]])[:, 4]
    assert path[1] - path[0] == pytest.approx(-10 * PERIOD**2)
    assert (np.diff(path) <= 1e-9).all() and path[-1] < LIMITS.high[4]
    out = guard(start=start)
    assert max(sent(out, turned(9))[4] for _ in range(5)) <= start[4] + 1e-9


def test_arm_that_does_not_follow_is_stopped_where_it_is() -> None:
    one, goal = guard(), turned(1)
    for _ in range(20):
        found = one.step(goal, HOME, seen_at=0.0, now=0.0)
    assert "wrist_roll is" in one.stopped and "may be blocked" in one.stopped
    np.testing.assert_array_equal(found.position, HOME)


def test_arm_that_reports_nonsense_is_stopped() -> None:
    one = guard()
    one.step(HOME, HOME * np.nan, seen_at=0.0, now=0.0)
    assert "not finite" in one.stopped
    np.testing.assert_array_equal(one.position, HOME)


def test_arm_outside_the_workspace_only_moves_closer_to_it() -> None:
    one = guard(start=at((0.195, 0.0, 0.19)))
    away = [outside(sent(one, at((0.195, 0.0, 0.25)))[None], LIMITS.workspace)[0] for _ in range(10)]
    assert max(away) <= 0.03 + 1e-6
    inwards = [outside(sent(one, HOME)[None], LIMITS.workspace)[0] for _ in range(40)]
    assert (np.diff(inwards) <= 1e-6).all() and inwards[-1] == 0
    np.testing.assert_allclose(one.position, HOME, atol=1e-6)


def test_start_far_beyond_a_joint_limit_is_refused() -> None:
    with pytest.raises(InputError, match=r"shoulder_pan is at 85\.9, outside -68\.8 to 68\.8"):
        guard(start=HOME + 1.5 * np.eye(6)[0])
    with pytest.raises(InputError, match="not finite"):
        guard(start=HOME * np.nan)
