"""Arms that actions are sent to, by LeRobot's interface: its own, the simulated one, or a user's."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from tercet.arm.robot.calibration import KEYS, to_joints, to_values
from tercet.arm.robot.simulated import SimulatedArm, SimulatedTeacher
from tercet.arm.sim.kinematics import Array
from tercet.config.functions import load_function, named_error
from tercet.config.robot import RobotConfig
from tercet.errors import FailedError, InputError, first_line

Observation = Mapping[str, Any]  # Any: LeRobot's; numbers, and pictures (height, width, 3)
SeenCube = Callable[[Observation], tuple[float, float, float, float]]  # x, y, z in metres; turn in radians

NO_CUBE = "none"
_SO_ARMS = ("so100", "so101")


@runtime_checkable
class Robot(Protocol):
    """What is used of lerobot.robots.Robot."""

    @property
    def observation_features(self) -> dict[str, Any]: ...  # Any: a type, or the shape of a picture
    @property
    def action_features(self) -> dict[str, Any]: ...  # Any: likewise
    @property
    def is_calibrated(self) -> bool: ...
    def connect(self, calibrate: bool = True) -> None: ...
    def disconnect(self) -> None: ...
    def get_observation(self) -> dict[str, Any]: ...  # Any: see Observation
    def send_action(self, action: dict[str, float]) -> Mapping[str, Any]: ...  # Any: what was sent


@runtime_checkable
class Teleoperator(Protocol):
    """What is used of lerobot.teleoperators.Teleoperator."""

    @property
    def is_calibrated(self) -> bool: ...
    def connect(self, calibrate: bool = True) -> None: ...
    def disconnect(self) -> None: ...
    def get_action(self) -> Mapping[str, Any]: ...  # Any: LeRobot's


class Arm:
    """A connected robot in our units; what goes wrong on the wire becomes a FailedError. Disconnects on exit.

    A read that fails is tried once more, if `safety.deadline` lets it; `lost` counts these.
    """

    def __init__(self, robot: Robot, config: RobotConfig) -> None:
        missing = [key for key in KEYS if key not in robot.action_features]
        if missing:
            raise InputError(
                f"robot={config.robot}: takes no {', '.join(missing)} (it takes {', '.join(robot.action_features)}); "
                "an SO-100 or SO-101, or one with the same joints, is needed"
            )
        self._robot, self._config, self.lost = robot, config, 0

    def __enter__(self) -> "Arm":
        _connect(self._robot, "the robot", self._config.port)
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        _let_go(self._robot, "the robot", error)

    def read(self) -> tuple[Array, Observation]:
        """Joints (6,), and the whole observation."""
        seen, lost = _read(self._robot.get_observation, "read the robot", self._config.port, self._config)
        self.lost += lost
        return to_joints(seen, self._config.calibration), seen

    def send(self, joints: Array) -> None:
        """Send joints (6,); they must come from a `safety.Guard`."""
        values = to_values(joints, self._config.calibration)
        _on_the_wire(lambda: self._robot.send_action(values), "send to the robot", self._config.port)


class Teacher:
    """What a person steers with, in our units; reads are tried once more, as `Arm`'s."""

    def __init__(self, teleoperator: Teleoperator, config: RobotConfig) -> None:
        self._teleoperator, self._config, self.lost = teleoperator, config, 0

    def __enter__(self) -> "Teacher":
        _connect(self._teleoperator, "the teacher's arm", self._config.teacher_port)
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        _let_go(self._teleoperator, "the teacher's arm", error)

    def joints(self) -> Array:
        """(6,): where the teacher's arm is."""
        port = self._config.teacher_port
        values, lost = _read(self._teleoperator.get_action, "read the teacher's arm", port, self._config)
        self.lost += lost
        return to_joints(values, self._config.calibration)


def find_robot(config: RobotConfig, *, task: str, seed: int) -> Robot:
    """The robot that a config names, not connected yet; `task` and `seed` are for the simulated one."""
    if config.robot == "simulated":
        return SimulatedArm(task, config.calibration, seed=seed, cameras=config.cameras)
    if ":" in config.robot:
        return _made("robot", config.robot)
    module = _lerobot("robots", config.robot, "follower")
    made = module.SOFollowerRobotConfig(
        port=_given(config.port, "port", config.robot),
        id=config.id or None,
        cameras=_lerobots_cameras(config),
        use_degrees=True,
        disable_torque_on_disconnect=False,  # an arm that is let go in the air falls
    )
    return module.SOFollower(made)


def find_teacher(config: RobotConfig, robot: Robot) -> Teleoperator | None:
    """What a person steers with, or None."""
    if config.teacher == "none":
        return None
    if config.teacher == "simulated":
        if not isinstance(robot, SimulatedArm):
            raise InputError(f"teacher=simulated needs robot=simulated, not {config.robot}")
        return SimulatedTeacher(robot)
    if ":" in config.teacher:
        return _made("teacher", config.teacher)
    module = _lerobot("teleoperators", config.teacher, "leader")
    port = _given(config.teacher_port, "teacher_port", config.teacher)
    return module.SOLeader(module.SOLeaderTeleopConfig(port=port, id=config.teacher_id or None, use_degrees=True))


def seen_cube(observation: Observation) -> tuple[float, float, float, float]:
    """The cube as the robot's own observation tells it; InputError where it doesn't."""
    keys = ("cube.x", "cube.y", "cube.z", "cube.turn")
    if not all(key in observation for key in keys):
        raise InputError(
            f"cube: this robot's observation holds no {', '.join(keys)}; "
            "give cube=module:function that finds it in the pictures, or cube=none (docs/real-arm.md)"
        )
    x, y, z, turn = (float(observation[key]) for key in keys)
    return x, y, z, turn


def find_cube(spec: str) -> SeenCube:
    """The user's function, its answer checked; with `none`, a cube far from everything, which no task ends with."""
    if spec == NO_CUBE:
        return lambda observation: (0.0, 0.0, 0.0, 0.0)
    function = load_function(spec)

    def find(observation: Observation) -> tuple[float, float, float, float]:
        try:
            answer = np.asarray(function(observation), np.float64)
        except (InputError, FailedError):
            raise
        except (Exception, SystemExit) as error:  # whatever the user's own function raises; it may call sys.exit
            raise FailedError(f"cube={spec} raised {named_error(error)}; the arm holds") from error
        if answer.shape != (4,) or not np.isfinite(answer).all():
            raise FailedError(
                f"cube={spec}: gave {answer.tolist()}, not four finite numbers x, y, z, turn; the arm holds"
            )
        x, y, z, turn = answer.tolist()
        return x, y, z, turn

    return find


def _made(key: str, spec: str) -> Any:  # Any: the user's own robot or teacher
    try:
        return load_function(spec)()
    except (InputError, FailedError):
        raise
    except (Exception, SystemExit) as error:  # whatever the user's own function raises; it may call sys.exit
        raise FailedError(f"{key}={spec} raised {named_error(error)}; nothing was sent") from error


def _lerobot(package: str, name: str, kind: str) -> Any:  # Any: lerobot, which only those need who have an arm
    known = [f"{arm}_{kind}" for arm in _SO_ARMS]
    if name not in known:
        raise InputError(f"{name!r} is unknown; there are simulated, {', '.join(known)}, and module:function")
    try:
        import importlib

        return importlib.import_module(f"lerobot.{package}.so_{kind}")
    except ImportError as error:
        raise InputError(
            f"{name} needs LeRobot ({first_line(error)}): pip install 'tercet[lerobot]' under Python 3.12"
        ) from error


def _lerobots_cameras(config: RobotConfig) -> dict[str, Any]:  # Any: LeRobot's
    if not config.cameras:
        return {}
    from lerobot.cameras.opencv import OpenCVCameraConfig  # pyright: ignore[reportMissingImports]  # an extra

    return {
        name: OpenCVCameraConfig(
            index_or_path=int(device) if device.isdigit() else Path(device),
            width=config.camera_width,
            height=config.camera_height,
            fps=config.camera_fps,
        )
        for name, device in config.cameras.items()
    }


def _given(port: str, key: str, name: str) -> str:
    if not port:
        raise InputError(f"{name} needs {key}=/dev/...; `lerobot-find-port` tells which")
    return port


def _connect(device: Robot | Teleoperator, what: str, port: str) -> None:
    """Connect without LeRobot's own questions on the terminal; InputError where it was not calibrated before."""
    _on_the_wire(lambda: device.connect(calibrate=False), f"connect to {what}", port)
    if not device.is_calibrated:
        device.disconnect()
        raise InputError(f"{what} is not calibrated, or under another id; run lerobot-calibrate, and give its id here")


def _let_go(device: Robot | Teleoperator, what: str, error: BaseException | None) -> None:
    """Disconnect; where that fails after another fault, the first one is what the user must hear of."""
    try:
        device.disconnect()
    except (Exception, SystemExit) as second:  # drivers raise what they like, and may call sys.exit
        if error is None:
            raise FailedError(f"cannot disconnect from {what}: {first_line(second)}; switch its power off") from second


def _read(
    do: Callable[[], Any], what: str, port: str, config: RobotConfig
) -> tuple[Any, int]:  # Any: whatever `do` returns
    """What was read, and how many reads were lost before: one packet in thousands gets lost on a bus of servos.

    A second loss, or one after the deadline, when the arm would brake anyway, is a fault.
    """
    begun = time.monotonic()
    try:
        return _on_the_wire(do, what, port), 0
    except FailedError:
        if time.monotonic() - begun > config.safety.deadline:
            raise
        return _on_the_wire(do, what, port), 1


def _on_the_wire(do: Callable[[], Any], what: str, port: str) -> Any:  # Any: whatever `do` returns
    try:
        return do()
    except (InputError, FailedError):
        raise
    except (Exception, SystemExit) as error:  # drivers raise what they like, and may call sys.exit
        where = f" at {port}" if port else ""
        raise FailedError(
            f"cannot {what}{where}: {type(error).__name__}: {first_line(error)}; check power and cable. "
            "Nothing more was sent"
        ) from error
