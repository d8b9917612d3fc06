"""Robots and leader arms with LeRobot's interface: LeRobot's own, the simulated one, or a user's."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from tercet.arm.robot.calibration import KEYS, numbers_of, to_joints, to_values
from tercet.arm.robot.simulated import SimulatedArm, SimulatedTeacher
from tercet.arm.sim.arms import find_arm
from tercet.arm.sim.kinematics import Array
from tercet.config.functions import load_function, named_error
from tercet.config.robot import RobotConfig
from tercet.errors import FailedError, InputError, first_line

Observation = Mapping[str, Any]  # Any: LeRobot's; numbers and images (height, width, 3)
CubeFinder = Callable[[Observation], tuple[float, float, float, float]]  # x, y, z in metres; turn in radians

NO_CUBE = "none"
_SO_ARMS = ("so100", "so101")


@runtime_checkable
class Robot(Protocol):
    """The part of lerobot.robots.Robot that is used."""

    @property
    def observation_features(self) -> dict[str, Any]: ...  # Any: a type, or the shape of an image
    @property
    def action_features(self) -> dict[str, Any]: ...  # Any: as above
    @property
    def is_calibrated(self) -> bool: ...
    def connect(self, calibrate: bool = True) -> None: ...
    def disconnect(self) -> None: ...
    def get_observation(self) -> dict[str, Any]: ...  # Any: see Observation
    def send_action(self, action: dict[str, float]) -> Mapping[str, Any]: ...  # Any: what was sent


@runtime_checkable
class Teleoperator(Protocol):
    """The part of lerobot.teleoperators.Teleoperator that is used."""

    @property
    def is_calibrated(self) -> bool: ...
    def connect(self, calibrate: bool = True) -> None: ...
    def disconnect(self) -> None: ...
    def get_action(self) -> Mapping[str, Any]: ...  # Any: LeRobot's


@runtime_checkable
class Bus(Protocol):
    """The part of LeRobot's motor buses that is used."""

    def disable_torque(self) -> None: ...


@runtime_checkable
class HasBus(Protocol):
    """A robot whose motors can be switched off, as LeRobot's can."""

    bus: Bus


class LimpArm:
    """A robot within `with` whose motors are off: a person poses it, and it is read and never commanded."""

    def __init__(self, robot: Robot, config: RobotConfig) -> None:
        if not isinstance(robot, HasBus):
            raise InputError(
                f"robot={config.robot}: has no bus.disable_torque(), so its motors cannot be switched off; only an arm "
                "without torque can be posed by hand"
            )
        self._robot, self._bus, self._config = robot, robot.bus, config

    def __enter__(self) -> "LimpArm":
        _connect(self._robot, "the robot", self._config.port)
        try:
            _communicate(self._bus.disable_torque, "switch off the motors of the robot", self._config.port)
        except (InputError, FailedError) as error:
            _disconnect(self._robot, "the robot", error)
            raise
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        _disconnect(self._robot, "the robot", error)

    def values(self) -> Array:
        """Return the joints (6,) in the robot's own units."""
        observation, _ = _read(self._robot.get_observation, "read the robot", self._config.port, self._config)
        return np.array(numbers_of(observation))


class Arm:
    """A robot in radians and metres. It is connected within `with`; errors of its driver become FailedError.

    A failed read is repeated once within `safety.deadline`; `lost` counts the failed reads.
    """

    def __init__(self, robot: Robot, config: RobotConfig) -> None:
        missing = [key for key in KEYS if key not in robot.action_features]
        if missing:
            raise InputError(
                f"robot={config.robot}: has no action {', '.join(missing)} "
                f"(it has {', '.join(robot.action_features)}); use an SO-100 or SO-101, or a robot with the same joints"
            )
        self._robot, self._config, self.lost = robot, config, 0

    def __enter__(self) -> "Arm":
        _connect(self._robot, "the robot", self._config.port)
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        _disconnect(self._robot, "the robot", error)

    def read(self) -> tuple[Array, Observation]:
        """Return the joints (6,) and the complete observation."""
        observation, lost = _read(self._robot.get_observation, "read the robot", self._config.port, self._config)
        self.lost += lost
        return to_joints(observation, self._config.calibration), observation

    def send(self, joints: Array) -> None:
        """Send joints (6,); they must come from a `safety.Guard`."""
        values = to_values(joints, self._config.calibration)
        _communicate(lambda: self._robot.send_action(values), "send to the robot", self._config.port)


class Teacher:
    """The leader arm of a person, in radians and metres; failed reads are repeated as in `Arm`."""

    def __init__(self, teleoperator: Teleoperator, config: RobotConfig) -> None:
        self._teleoperator, self._config, self.lost = teleoperator, config, 0

    def __enter__(self) -> "Teacher":
        _connect(self._teleoperator, "the leader arm", self._config.teacher_port)
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        _disconnect(self._teleoperator, "the leader arm", error)

    def joints(self) -> Array:
        """Return the joints (6,) of the leader arm."""
        port = self._config.teacher_port
        values, lost = _read(self._teleoperator.get_action, "read the leader arm", port, self._config)
        self.lost += lost
        return to_joints(values, self._config.calibration)


def find_robot(config: RobotConfig, *, task: str, seed: int) -> Robot:
    """Create the robot of a config without connecting it; `task` and `seed` are for the simulated one."""
    if config.robot == "simulated":
        return SimulatedArm(task, config.calibration, arm=find_arm(config.model), seed=seed, cameras=config.cameras)
    if ":" in config.robot:
        return _call_factory("robot", config.robot)
    module = _lerobot("robots", config.robot, "follower")
    settings = module.SOFollowerRobotConfig(
        port=_required_port(config.port, "port", config.robot),
        id=config.id or None,
        cameras=_lerobot_cameras(config),
        use_degrees=True,
        disable_torque_on_disconnect=False,  # an arm without torque falls
    )
    return module.SOFollower(settings)


def find_teacher(config: RobotConfig, robot: Robot) -> Teleoperator | None:
    """Create the leader arm of a config without connecting it. Return None for teacher=none."""
    if config.teacher == "none":
        return None
    if config.teacher == "simulated":
        if not isinstance(robot, SimulatedArm):
            raise InputError(f"teacher=simulated: needs robot=simulated, not {config.robot}")
        return SimulatedTeacher(robot)
    if ":" in config.teacher:
        return _call_factory("teacher", config.teacher)
    module = _lerobot("teleoperators", config.teacher, "leader")
    port = _required_port(config.teacher_port, "teacher_port", config.teacher)
    return module.SOLeader(module.SOLeaderTeleopConfig(port=port, id=config.teacher_id or None, use_degrees=True))


def seen_cube(observation: Observation) -> tuple[float, float, float, float]:
    """Read the pose of the cube from the robot's observation. Raise InputError if it is not there."""
    keys = ("cube.x", "cube.y", "cube.z", "cube.turn")
    if not all(key in observation for key in keys):
        raise InputError(
            f"cube: the robot's observation has no {', '.join(keys)}; "
            "give cube=module:function, which finds it in the images, or cube=none (docs/real-arm.md)"
        )
    x, y, z, turn = (float(observation[key]) for key in keys)
    return x, y, z, turn


def find_cube(spec: str) -> CubeFinder:
    """Return the user's function with its result checked; `none` gives a constant pose, in which no task succeeds."""
    if spec == NO_CUBE:
        return lambda observation: (0.0, 0.0, 0.0, 0.0)
    function = load_function(spec)

    def find(observation: Observation) -> tuple[float, float, float, float]:
        try:
            answer = np.asarray(function(observation), np.float64)
        except (InputError, FailedError):
            raise
        except (Exception, SystemExit) as error:  # a user's function can raise anything, and may call sys.exit
            raise FailedError(f"cube={spec} raised {named_error(error)}; the arm holds its position") from error
        if answer.shape != (4,) or not np.isfinite(answer).all():
            raise FailedError(
                f"cube={spec}: returned {answer.tolist()}; it must return four finite numbers x, y, z, turn; the "
                "arm holds its position"
            )
        x, y, z, turn = answer.tolist()
        return x, y, z, turn

    return find


def _call_factory(key: str, spec: str) -> Any:  # Any: the user's own robot or teacher
    try:
        return load_function(spec)()
    except (InputError, FailedError):
        raise
    except (Exception, SystemExit) as error:  # a user's function can raise anything, and may call sys.exit
        raise FailedError(f"{key}={spec} raised {named_error(error)}; nothing was sent") from error


def _lerobot(package: str, name: str, kind: str) -> Any:  # Any: a module of lerobot, which is optional
    known = [f"{arm}_{kind}" for arm in _SO_ARMS]
    if name not in known:
        raise InputError(f"{name!r} is unknown; give simulated, {', '.join(known)}, or module:function")
    try:
        import importlib

        return importlib.import_module(f"lerobot.{package}.so_{kind}")
    except ImportError as error:
        raise InputError(
            f"{name} needs LeRobot ({first_line(error)}): pip install 'tercet[lerobot]' under Python 3.12"
        ) from error


def _lerobot_cameras(config: RobotConfig) -> dict[str, Any]:  # Any: LeRobot's
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


def _required_port(port: str, key: str, name: str) -> str:
    if not port:
        raise InputError(f"{name} needs {key}=/dev/...; `lerobot-find-port` shows the port")
    return port


def _connect(device: Robot | Teleoperator, what: str, port: str) -> None:
    """Connect without LeRobot's prompts on the terminal. Raise InputError if the device is not calibrated."""
    _communicate(lambda: device.connect(calibrate=False), f"connect to {what}", port)
    if not device.is_calibrated:
        device.disconnect()
        raise InputError(f"{what} is not calibrated under this id; run lerobot-calibrate and give the same id here")


def _disconnect(device: Robot | Teleoperator, what: str, error: BaseException | None) -> None:
    """Disconnect. After an earlier error, a failure to disconnect is not raised, so that the first error is shown."""
    try:
        device.disconnect()
    except (Exception, SystemExit) as second:  # a driver can raise anything, and may call sys.exit
        if error is None:
            raise FailedError(f"cannot disconnect from {what}: {first_line(second)}; switch its power off") from second


def _read(
    do: Callable[[], Any], what: str, port: str, config: RobotConfig
) -> tuple[Any, int]:  # Any: the result of `do`
    """Return the result of a read and the number of failed reads before it, 0 or 1.

    A servo bus loses about one packet in thousands, so a failed read is repeated once. A second failure is an error, as
    is a failure after the deadline, when the arm would brake anyway.
    """
    begun = time.monotonic()
    try:
        return _communicate(do, what, port), 0
    except FailedError:
        if time.monotonic() - begun > config.safety.deadline:
            raise
        return _communicate(do, what, port), 1


def _communicate(do: Callable[[], Any], what: str, port: str) -> Any:  # Any: the result of `do`
    try:
        return do()
    except (InputError, FailedError):
        raise
    except (Exception, SystemExit) as error:  # a driver can raise anything, and may call sys.exit
        where = f" at {port}" if port else ""
        raise FailedError(
            f"cannot {what}{where}: {type(error).__name__}: {first_line(error)}; check power and cable. "
            "Nothing more was sent"
        ) from error
