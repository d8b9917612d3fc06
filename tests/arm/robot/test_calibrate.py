"""Calibration by hand recovers falsified zeros and signs, moves nothing, and refuses what cannot be right."""

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import mujoco
import numpy as np
import pytest
from tests.arm.conftest import Other
from tests.arm.robot.conftest import keys_at
from typer.testing import CliRunner

from tercet.arm.robot import calibrate
from tercet.arm.robot.calibrate import Readings
from tercet.arm.robot.calibration import to_joints, to_values
from tercet.arm.robot.control import SimulatedClock
from tercet.arm.robot.devices import LimpArm
from tercet.arm.robot.poses import Pose, Touch, all_steps
from tercet.arm.robot.simulated import PosedArm
from tercet.arm.sim import kinematics
from tercet.arm.sim.kinematics import JOINTS, Array
from tercet.arm.sim.so101 import INSTALL, PACKAGE, So101
from tercet.cli import app
from tercet.config.load import load_robot_config
from tercet.config.robot import CalibrationConfig, RobotConfig
from tercet.errors import FailedError, InputError

pytestmark = pytest.mark.skipif(find_spec(PACKAGE) is None, reason=f"needs the model of the SO-101: {INSTALL}")
CONFIG = load_robot_config("simulated-so101", [])


class Hands:
    """A person who poses an arm as asked, except that `misses` (6,) are added to the joints of the poses in `where`."""

    def __init__(self, robot: PosedArm, misses: Array | None = None, where: str = "") -> None:
        self.robot, self.misses, self.where = robot, misses, where

    def __call__(self, step: Pose | Touch) -> None:
        asked = step.joints.copy()
        if self.misses is not None and step.key.startswith(self.where):
            asked += self.misses
        self.robot.pose(asked)


def calibrated(
    folder: Path,
    robot: PosedArm,
    hands: Hands | None = None,
    *,
    config: RobotConfig = CONFIG,
    keys: object = None,
) -> tuple[CalibrationConfig, list[str]]:
    said: list[str] = []
    folder.mkdir(exist_ok=True)
    readings = Readings.open(folder / "readings.json", config, "a4")
    with LimpArm(robot, config) as arm:
        found = calibrate.run(
            config,
            arm,
            readings,
            keys=keys or (lambda: "g"),  # type: ignore[arg-type]
            clock=SimulatedClock(),
            say=said.append,
            show=hands or Hands(robot),
        )
    return found, said


@pytest.mark.parametrize("seed", range(4))
def test_falsified_zeros_and_signs_are_found(tmp_path: Path, seed: int) -> None:
    robot = PosedArm(CONFIG.calibration, seed=seed)
    found, _ = calibrated(tmp_path, robot)
    for name in JOINTS:
        true, ours = getattr(robot.calibration, name), getattr(found, name)
        assert ours.degrees_per_unit == true.degrees_per_unit and abs(ours.zero - true.zero) < 1.0
    assert abs(found.gripper.closed - robot.calibration.gripper.closed) < 1.0
    assert abs(found.gripper.wide - robot.calibration.gripper.wide) < 1.0
    assert robot.calibration != CONFIG.calibration


def test_the_finger_tips_are_then_where_the_makers_model_has_them(tmp_path: Path) -> None:
    robot, arm = PosedArm(CONFIG.calibration, seed=5), So101()
    found, _ = calibrated(tmp_path, robot)
    model = arm.build(num_cubes=0)
    data = mujoco.MjData(model)
    for joints in np.random.default_rng(0).uniform([-1, -0.5, -0.5, -0.5, -1], [1, 1, 1, 1, 1], (20, 5)):
        data.qpos[:] = arm.positions(joints[None], np.zeros(1))[0]
        mujoco.mj_forward(model, data)
        computed = to_joints(to_values(np.append(joints, 0.0), robot.calibration), found)
        tip = kinematics.forward(computed[None, :5]).tip[0]
        assert np.linalg.norm(tip - data.site("tip").xpos) < 0.008


def test_limits_are_within_the_stops_and_those_of_a_person_stay(tmp_path: Path) -> None:
    robot = PosedArm(CONFIG.calibration, seed=1)
    found, _ = calibrated(tmp_path, robot)
    stops = np.degrees(So101().limits)
    for name, ends in zip(JOINTS, stops, strict=True):
        true, ours = getattr(robot.calibration, name), getattr(found, name)
        low, high = sorted(true.zero + ends / true.degrees_per_unit)
        assert low < ours.low < ours.high < high
        assert ours.high - ours.low > 0.9 * (min(high, 180) - max(low, -180))
    own = load_robot_config("simulated-so101", ["calibration.shoulder_pan={degrees_per_unit: -1, low: -40, high: 30}"])
    found, said = calibrated(tmp_path / "other", PosedArm(own.calibration, seed=1), config=own)
    assert (found.shoulder_pan.low, found.shoulder_pan.high) == (-40, 30)
    (line,) = (line for line in said if "its own limits" in line)
    assert line.startswith("shoulder_pan: the file has its own limits, -40 to 30, and the stops allow ")
    assert "; -40.0 to 30.0 stays. If lerobot-calibrate was run since" in line


def test_the_motors_are_off_before_the_first_reading_and_nothing_is_sent(tmp_path: Path) -> None:
    class Watched(PosedArm):
        def get_observation(self) -> dict[str, float]:
            assert self.is_limp
            return super().get_observation()

    calibrated(tmp_path, Watched(CONFIG.calibration))  # which raises if it is sent a command

    with pytest.raises(InputError, match="so its motors cannot be switched off"):
        LimpArm(Other(), CONFIG)


def test_limits_of_a_person_that_reach_beyond_a_stop_end_there(tmp_path: Path) -> None:
    own = load_robot_config("simulated-so101", ["calibration.shoulder_pan={degrees_per_unit: -1, low: -40, high: 300}"])
    robot = PosedArm(own.calibration, seed=1)
    found, true = calibrated(tmp_path, robot, config=own)[0].shoulder_pan, robot.calibration.shoulder_pan
    stop = max(true.zero + np.degrees(So101().limits[0]) / true.degrees_per_unit)
    assert found.low == -40 and stop - 3 < found.high < stop


def test_limits_outside_the_stops_are_replaced_and_this_is_said(tmp_path: Path) -> None:
    own = load_robot_config("simulated-so101", ["calibration.shoulder_pan={degrees_per_unit: -1, low: 300, high: 350}"])
    found, said = calibrated(tmp_path, PosedArm(own.calibration, seed=1), config=own)
    assert [line for line in said if line.startswith("shoulder_pan: the file has its own limits, 300 to 350")]
    assert found.shoulder_pan.low < 0 < found.shoulder_pan.high < 180


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_number_that_is_not_finite_ends_the_session_and_is_not_stored(tmp_path: Path, value: float) -> None:
    class Loose(PosedArm):
        def get_observation(self) -> dict[str, float]:
            return {**super().get_observation(), "elbow_flex.pos": value}

    with pytest.raises(FailedError, match=r"which are not all numbers; check power and cable"):
        calibrated(tmp_path, Loose(CONFIG.calibration))
    assert not (tmp_path / "readings.json").exists()


def test_keys_that_are_typed_while_a_pose_is_read_do_not_read_the_next_one(tmp_path: Path) -> None:
    robot = PosedArm(CONFIG.calibration)
    with pytest.raises(KeyboardInterrupt, match="readings kept: 1"):
        calibrated(tmp_path, robot, keys=keys_at({0: "g", 1: "g", 2: "q"}))
    with pytest.raises(KeyboardInterrupt, match="readings kept: 1"):
        calibrated(tmp_path, robot, keys=keys_at({0: "g", 1: "q"}))


def test_a_session_goes_on_where_it_was_stopped(tmp_path: Path) -> None:
    robot = PosedArm(CONFIG.calibration)
    with pytest.raises(KeyboardInterrupt, match="readings kept: 5"):
        calibrated(tmp_path, robot, keys=keys_at({**dict.fromkeys(range(10), "g"), 10: "q"}))
    _, said = calibrated(tmp_path, robot)
    assert said[1].startswith("6 of 15: fold the forearm")


def test_b_reads_the_last_pose_again(tmp_path: Path) -> None:
    robot = PosedArm(CONFIG.calibration)
    presses = {**dict.fromkeys(range(40), "g"), 6: "b"}
    _, said = calibrated(tmp_path, robot, keys=keys_at(presses))
    numbers = [int(line.split(" of ")[0]) for line in said if " of 15" in line]
    assert numbers == [1, 2, 3, 4, 3, *range(4, 16)]


def test_a_joint_that_was_not_turned_is_refused(tmp_path: Path) -> None:
    robot = PosedArm(CONFIG.calibration)
    turned = all_steps(So101(), "a4")[3].joints - all_steps(So101(), "a4")[2].joints
    hands = Hands(robot, -turned, "shoulder_lift-2")  # in place of the second pose, the first once more
    with pytest.raises(FailedError, match=r"shoulder_lift was read at .* 0% of the way .* read 3 times"):
        calibrated(tmp_path, robot, hands)
    left = Readings.open(tmp_path / "readings.json", CONFIG, "a4").values
    assert list(left) == ["shoulder_pan-1", "shoulder_pan-2"]


def test_a_pair_is_stored_only_after_it_was_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*given: object) -> str:
        raise SystemExit

    monkeypatch.setattr(calibrate, "_problem", killed)
    with pytest.raises(SystemExit):
        calibrated(tmp_path, PosedArm(CONFIG.calibration))
    assert list(Readings.open(tmp_path / "readings.json", CONFIG, "a4").values) == ["shoulder_pan-1"]


def test_a_joint_that_was_turned_in_place_of_another_is_named(tmp_path: Path) -> None:
    robot = PosedArm(CONFIG.calibration)
    steps = all_steps(So101(), "a4")
    other = steps[2].joints - steps[3].joints
    other[3] += 1.2
    with pytest.raises(FailedError, match="wrist_flex moved instead"):
        calibrated(tmp_path, robot, Hands(robot, other, "shoulder_lift-2"))


def test_a_servo_that_passes_the_end_of_its_count_is_refused(tmp_path: Path) -> None:
    class Wraps(PosedArm):
        def get_observation(self) -> dict[str, float]:
            values = super().get_observation()
            roll = values["wrist_roll.pos"] + 180 - self.calibration.wrist_roll.zero  # starts at 180, the count's end
            return {**values, "wrist_roll.pos": (roll + 180) % 360 - 180 if abs(roll - 180) > 5 else 180.0}

    with pytest.raises(FailedError, match=r"wrist_roll .* the servo passed the end of its count"):
        robot = Wraps(CONFIG.calibration, seed=next(seed for seed in range(9) if rolls_up(seed)))
        calibrated(tmp_path, robot)


def rolls_up(seed: int) -> bool:
    return PosedArm(CONFIG.calibration, seed=seed).calibration.wrist_roll.degrees_per_unit > 0


def test_an_arm_that_moves_while_it_is_read_is_read_again(tmp_path: Path) -> None:
    class Trembles(PosedArm):
        num_reads = 0

        def get_observation(self) -> dict[str, float]:
            self.num_reads += 1
            if self.num_reads < 10:
                self._joints = self._joints + 0.01
            return super().get_observation()

    _, said = calibrated(tmp_path, Trembles(CONFIG.calibration))
    assert "degrees while it was read; hold it still" in said[2] and said[3].startswith("1 of 15")


def test_the_touches_find_a_zero_that_is_wrong_and_say_of_which_joint(tmp_path: Path) -> None:
    robot = PosedArm(CONFIG.calibration, seed=2)
    early = np.zeros(6)
    early[1] = np.radians(-9.0)  # both times short of the same stop
    with pytest.raises(FailedError, match=r"an error of \+(8|9|10)\.\d degrees in shoulder_lift explains most of it"):
        calibrated(tmp_path, robot, Hands(robot, early, "shoulder_lift"))
    left = Readings.open(tmp_path / "readings.json", CONFIG, "a4").values
    assert len(left) == 10 and not [key for key in left if key.startswith(("touch", "shoulder_lift"))]
    found, said = calibrated(tmp_path, robot)  # reads these five again
    assert len([line for line in said if " of 15" in line]) == 5
    assert abs(found.shoulder_lift.zero - robot.calibration.shoulder_lift.zero) < 1


@pytest.mark.parametrize("text", ["[]", "{", '{"about": {}, "values": {"a": [1]}}', '{"values": {}}'])
def test_damaged_readings_and_those_of_another_robot_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "readings.json").write_text(text)
    with pytest.raises(InputError, match="cannot be read as the readings of a calibration; delete it"):
        Readings.open(tmp_path / "readings.json", CONFIG, "a4")
    readings = Readings(tmp_path / "readings.json", {"robot": "so101_follower", "id": "left", "paper": "a4"}, "a4")
    readings.add("touch-left", np.zeros(6))
    with pytest.raises(InputError, match=r"readings of .*so101_follower.*, not of .*simulated"):
        Readings.open(tmp_path / "readings.json", CONFIG, "a4")


@pytest.fixture
def file(tmp_path: Path) -> Iterator[Path]:
    """Where a robot's file is written; the page of pictures is there already, since drawing takes long."""
    (tmp_path / "mine-poses-a4.html").write_text("drawn")
    yield tmp_path / "mine.yaml"


def called(*words: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["arm", "calibrate", *map(str, words)])
    return result.exit_code, " ".join(result.output.split())


def test_the_command_writes_a_file_for_the_other_commands_and_keeps_the_old_one(file: Path) -> None:
    code, said = called(file, "--robot", "simulated-so101", "goal=[0.2,0.0,0.05]", "safety.max_speed=45")
    assert code == 0, said
    assert "shoulder_pan zero" in said and f"robot: {file}" in said
    config = load_robot_config(file, [])
    assert config.goal == [0.2, 0.0, 0.05] and config.safety.max_speed == 45 and config.model == "so101"
    assert config.calibration != CONFIG.calibration
    assert not file.with_name("mine.yaml.readings.json").exists()
    before = file.read_text()
    code, _ = called(file)
    assert code == 0 and file.with_name("mine.yaml.old").read_text() == before
    assert load_robot_config(file, []).goal == [0.2, 0.0, 0.05]


def test_what_cannot_be_calibrated_is_one_message(file: Path) -> None:
    for words, message in (
        ((file.with_suffix(".txt"),), "give the robot's file a name that ends in .yaml"),
        ((file, "--robot", "simulated"), "model=primitive: only the stops of an SO-101 are known"),
        ((file, "--paper", "a5"), "--paper a5: give a4 or letter"),
        ((file, "--robot", "so101", f"robot={__name__}:posed"), "a person must pose the arm"),
        ((file, "port=/dev/null"), "a person must pose the arm|needs LeRobot"),
    ):
        code, said = called(*words)
        assert code == 2 and any(one in said for one in message.split("|")), said
        assert not file.exists()


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (KeyboardInterrupt(), 130, "interrupted; readings kept: 0; the same command goes on with the next"),
        (ConnectionError("gone"), 1, "cannot read the robot: ConnectionError: gone; check power and cable"),
    ],
)
def test_however_a_session_ends_it_says_that_the_motors_stay_off(
    file: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, message: str
) -> None:
    def fails(arm: PosedArm) -> dict[str, float]:
        raise error

    monkeypatch.setattr(PosedArm, "get_observation", fails)
    found, said = called(file, "--robot", "simulated-so101")
    assert found == code and message in said and "the motors stay off: lay the arm down" in said, said
    assert not file.exists()


def test_the_file_of_one_robot_is_not_taken_for_another(file: Path) -> None:
    file.write_text("model: so101\n")
    code, said = called(file, "--robot", "so101", "port=/dev/null")
    assert code == 2 and "with robot=simulated, and --robot so101 has robot=so101_follower" in said, said
    assert file.read_text() == "model: so101\n"


def posed() -> PosedArm:
    return PosedArm(CONFIG.calibration)
