"""The simulated arm with LeRobot's interface."""

from collections.abc import Iterator

import pytest

from tercet.arm.robot.calibration import KEYS
from tercet.arm.robot.simulated import SimulatedArm, SimulatedTeacher
from tercet.config.load import load_robot_config
from tercet.errors import InputError

CALIBRATION = load_robot_config("simulated", []).calibration


@pytest.fixture
def arm() -> Iterator[SimulatedArm]:
    robot = SimulatedArm("lift", CALIBRATION)
    robot.connect()
    yield robot
    robot.disconnect()


def test_the_observation_has_the_announced_entries(arm: SimulatedArm) -> None:
    assert set(arm.get_observation()) == set(arm.observation_features)
    assert set(SimulatedTeacher(arm).get_action()) == set(arm.action_features) == set(KEYS)


def test_an_action_moves_the_joints_towards_it(arm: SimulatedArm) -> None:
    before = arm.get_observation()["shoulder_pan.pos"]
    target = {**{key: arm.get_observation()[key] for key in KEYS}, "shoulder_pan.pos": before + 5.0}
    for _ in range(10):
        arm.send_action(target)
    assert arm.get_observation()["shoulder_pan.pos"] == pytest.approx(before + 5.0, abs=0.5)


def test_an_arm_that_is_not_connected_gives_no_observation() -> None:
    with pytest.raises(ConnectionError, match="tercet_simulated is not connected"):
        SimulatedArm("reach", CALIBRATION).get_observation()


def test_an_unknown_camera_is_refused() -> None:
    with pytest.raises(InputError, match="the simulated arm has no behind; it has front"):
        SimulatedArm("reach", CALIBRATION, cameras={"front": "behind"})
