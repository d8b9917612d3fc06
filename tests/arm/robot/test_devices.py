"""What LeRobot's own arms are asked for, against a stand-in that refuses what LeRobot 0.6 refuses."""

import sys
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

import pytest
from packaging.requirements import Requirement
from tests.arm.conftest import Other

from tercet.arm.robot.devices import find_robot, find_teacher
from tercet.config.load import load_robot_config


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


@pytest.fixture(autouse=True)
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
