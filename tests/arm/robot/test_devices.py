"""What LeRobot's own arms are asked for, against a stand-in that refuses what LeRobot 0.6 refuses."""

import sys
import time
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from packaging.requirements import Requirement
from tests.arm.conftest import Other
from tests.arm.robot.conftest import CONFIG, run_session, session

from tercet.arm.robot.devices import Arm, Teacher, find_cube, find_robot, find_teacher
from tercet.arm.robot.simulated import SimulatedArm
from tercet.config.load import load_robot_config
from tercet.errors import FailedError, InputError


@dataclass
class Camera:
    index_or_path: int | Path
    fps: int | None = None
    width: int | None = None
    height: int | None = None


@dataclass
class Follower:
    port: str
    id: str | None = None
    disable_torque_on_disconnect: bool = True
    cameras: dict[str, Camera] = field(default_factory=dict)
    use_degrees: bool = False

    def __post_init__(self) -> None:
        for camera in self.cameras.values():
            for key in ("width", "height", "fps"):
                if getattr(camera, key) is None:
                    raise ValueError(f"Specifying '{key}' is required for the camera to be used in a robot")


@dataclass
class Leader:
    port: str
    id: str | None = None
    use_degrees: bool = False


class Made(Other):
    """A robot and a teacher that remembers how it was asked for."""

    def __init__(self, config: Follower | Leader) -> None:
        self.config = config


@pytest.fixture
def lerobot(monkeypatch: pytest.MonkeyPatch) -> None:
    holds = {
        "lerobot": {},
        "lerobot.cameras": {},
        "lerobot.cameras.opencv": {"OpenCVCameraConfig": Camera},
        "lerobot.robots": {},
        "lerobot.robots.so_follower": {"SOFollowerRobotConfig": Follower, "SOFollower": Made},
        "lerobot.teleoperators": {},
        "lerobot.teleoperators.so_leader": {"SOLeaderTeleopConfig": Leader, "SOLeader": Made},
    }
    for name, members in holds.items():
        module = ModuleType(name)
        vars(module).update(members)
        monkeypatch.setitem(sys.modules, name, module)


@pytest.mark.usefixtures("lerobot")
def test_lerobots_follower_gets_all_that_it_asks_for_and_speaks_in_degrees() -> None:
    config = load_robot_config("so101", ["port=/dev/a", "cameras={front: /dev/video0, wrist: '2'}", "camera_fps=25"])
    robot = find_robot(config, task="lift", seed=0)
    assert isinstance(robot, Made)
    assert robot.config == Follower(
        port="/dev/a",
        id="follower",
        disable_torque_on_disconnect=False,
        cameras={"front": Camera(Path("/dev/video0"), 25, 640, 480), "wrist": Camera(2, 25, 640, 480)},
        use_degrees=True,
    )


@pytest.mark.usefixtures("lerobot")
def test_lerobots_leader_speaks_in_degrees() -> None:
    config = load_robot_config("so101", ["port=/dev/a", "teacher=so101_leader", "teacher_port=/dev/b"])
    teacher = find_teacher(config, find_robot(config, task="lift", seed=0))
    assert isinstance(teacher, Made) and teacher.config == Leader("/dev/b", None, use_degrees=True)


def test_the_extra_for_lerobot_keeps_to_a_pyav_with_which_lerobot_records() -> None:
    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["project"]
    wanted = [Requirement(one) for one in project["optional-dependencies"]["lerobot"]]
    bounds = [one.specifier for one in wanted if one.name == "av"]
    assert any("15.1.0" in one for one in bounds)
    assert not any("17.0.0" in one or "16.0.0" in one for one in bounds)


def test_missing_robot_or_teacher_is_an_error_with_a_remedy() -> None:
    with pytest.raises(InputError, match=r"pip install 'tercet\[lerobot\]'|needs port"):
        find_robot(load_robot_config("so101", []), task="lift", seed=0)
    with pytest.raises(InputError, match="'so102_follower' is unknown; give simulated, so100_follower"):
        find_robot(load_robot_config("simulated", ["robot=so102_follower"]), task="lift", seed=0)
    with pytest.raises(InputError, match="needs robot=simulated"):
        find_teacher(CONFIG, Other())
    with pytest.raises(InputError, match="give teacher=so101_leader"):
        run_session(load_robot_config("simulated", ["teacher=none"]), session())


def test_uncalibrated_robot_is_refused_and_disconnected() -> None:
    with pytest.raises(InputError, match="the robot is not calibrated under this id"), Arm(Other(), CONFIG):
        pass


def test_robot_with_other_joints_is_refused() -> None:
    class Car(SimulatedArm):
        @property
        def action_features(self) -> dict[str, Any]:
            return {"wheel.vel": float}

    car = Car("lift", CONFIG.calibration)
    with pytest.raises(InputError, match=r"has no action shoulder_pan\.pos.*\(it has wheel\.vel\)"):
        Arm(car, CONFIG)
    car.disconnect()


def two_numbers(observation: Any) -> Any:  # Any: a user's function may be anything
    return 1, 2


def leaves(*given: Any) -> Any:  # Any: a user's function may be anything
    raise SystemExit(0)


class Leaving(Other):
    """A robot whose driver exits where it should read."""

    def get_observation(self) -> dict[str, Any]:
        return leaves()


def test_user_function_that_exits_is_an_error() -> None:
    with pytest.raises(FailedError, match=r"cube=.*:leaves raised SystemExit: 0; the arm holds"):
        find_cube(f"{__name__}:leaves")({})
    config = load_robot_config("simulated", [f"robot={__name__}:leaves"])
    with pytest.raises(FailedError, match=r"robot=.*:leaves raised SystemExit: 0; nothing was sent"):
        find_robot(config, task="lift", seed=0)
    with pytest.raises(FailedError, match=r"cannot read the robot: SystemExit: 0; check power"):
        Arm(Leaving(), config).read()


def test_missing_cube_position_is_an_error() -> None:
    with pytest.raises(InputError, match="give cube=module:function"):
        find_cube(CONFIG.cube)({"shoulder_pan.pos": 1.0})
    with pytest.raises(FailedError, match="must return four finite numbers"):
        find_cube(f"{__name__}:two_numbers")({})


class Losing(Other):
    """A robot, or a teacher, whose bus loses some of its reads; `slow` seconds go by before each loss."""

    def __init__(self, lost: set[int], slow: float = 0.0) -> None:
        self.reads, self.lost, self.slow = 0, lost, slow

    def get_observation(self) -> dict[str, Any]:
        self.reads += 1
        if self.reads - 1 in self.lost:
            time.sleep(self.slow)
            raise ConnectionError("no status packet")
        return super().get_observation()

    def get_action(self) -> dict[str, float]:
        return self.get_observation()


@pytest.mark.parametrize("kind", [Arm, Teacher])
def test_lost_read_is_retried_once(kind: type[Arm] | type[Teacher]) -> None:
    def read(one: Arm | Teacher) -> None:
        _ = one.read() if isinstance(one, Arm) else one.joints()

    one = kind(Losing({1, 4}), CONFIG)
    for _ in range(5):
        read(one)
    assert one.lost == 2
    with pytest.raises(FailedError, match=r"cannot read the .*: ConnectionError: no status packet"):
        read(kind(Losing({0, 1}), CONFIG))


def test_lost_read_after_the_deadline_is_not_retried() -> None:
    config = CONFIG.model_copy(update={"safety": CONFIG.safety.model_copy(update={"deadline": 0.02})})
    robot = Losing({0}, slow=0.05)
    with pytest.raises(FailedError, match="no status packet"):
        Arm(robot, config).read()
    assert robot.reads == 1
