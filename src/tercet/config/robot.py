"""The config of a real robot: connection, units and limits."""

from typing import Literal, Self

from pydantic import Field, model_validator

from tercet.config.section import Section

ArmName = Literal["primitive", "so101"]  # of `arm/sim/arms.py`
REACH = 1.0  # metres; more than the reach of such an arm


class JointConfig(Section):
    """Units of a joint: degrees = degrees_per_unit * (value - zero)."""

    zero: float = Field(default=0.0, ge=-1e6, le=1e6, description="The robot's value at Tercet's zero of the joint.")
    degrees_per_unit: float = Field(default=1.0, ge=-360, le=360, description="Tercet's degrees per unit of the robot; negative if the joint turns the other way.")
    low: float = Field(default=-95.0, ge=-400, le=400, description="Lowest value that may be sent, in the robot's units.")
    high: float = Field(default=95.0, ge=-400, le=400, description="Highest value that may be sent, in the robot's units.")

    @model_validator(mode="after")
    def _is_a_range(self) -> Self:
        if self.degrees_per_unit == 0:
            raise ValueError("degrees_per_unit must not be 0")
        if self.low >= self.high:
            raise ValueError(f"low={self.low} must be below high={self.high}")
        return self


class GripperConfig(Section):
    """Units of the gripper, linear between two measured openings."""

    closed: float = Field(default=0.0, ge=-1e6, le=1e6, description="The robot's value with the fingers closed.")
    wide: float = Field(default=50.0, ge=-1e6, le=1e6, description="The robot's value with the finger tips 7 cm apart, the widest opening of the simulation.")

    @model_validator(mode="after")
    def _moves(self) -> Self:
        if self.closed == self.wide:
            raise ValueError("closed and wide must differ")
        return self


class CalibrationConfig(Section):
    """Conversion between the robot's values and the joints of docs/real-arm.md."""

    shoulder_pan: JointConfig = JointConfig()
    shoulder_lift: JointConfig = JointConfig()
    elbow_flex: JointConfig = JointConfig()
    wrist_flex: JointConfig = JointConfig()
    wrist_roll: JointConfig = JointConfig()
    gripper: GripperConfig = GripperConfig()


class MotionConfig(Section):
    """Limits on the movements of an arm."""

    workspace_x: list[float] = Field(default=[0.12, 0.26], min_length=2, max_length=2, description="Range of the finger tips in front of the shoulder axis, in metres: [lowest, highest].")
    workspace_y: list[float] = Field(default=[-0.14, 0.14], min_length=2, max_length=2, description="Range of the finger tips to the left, in metres.")
    workspace_z: list[float] = Field(default=[0.008, 0.16], min_length=2, max_length=2, description="Range of the finger tips above the table, in metres.")
    max_speed: float = Field(default=90.0, gt=0, le=360, description="Maximum speed of a joint, in degrees per second.")
    max_acceleration: float = Field(default=600.0, gt=0, le=7200, description="Maximum acceleration of a joint, in degrees per second squared.")
    gripper_speed: float = Field(default=0.15, gt=0, le=1, description="Maximum speed of a finger, in metres per second.")
    gripper_acceleration: float = Field(default=1.5, gt=0, le=20, description="Maximum acceleration of a finger, in metres per second squared.")

    @model_validator(mode="after")
    def _holds_space(self) -> Self:
        for name in ("workspace_x", "workspace_y", "workspace_z"):
            low, high = getattr(self, name)
            if not -REACH <= low < high <= REACH:
                raise ValueError(f"{name}=[{low}, {high}]: the first must be below the second, both from -{REACH} to {REACH}")
        return self


class SafetyConfig(MotionConfig):
    """Limits on every command, including those of a person; they cannot be disabled."""

    deadline: float = Field(default=0.15, gt=0, le=1, description="Maximum age of the observation behind a command, in seconds; older commands are not sent and the arm holds.")
    max_lag: float = Field(default=15.0, gt=0, le=60, description="Maximum lag of a joint behind its command, in degrees; beyond it the joint counts as blocked and everything stops.")


class ModelConfig(Section):
    """The arm that is simulated."""

    model: ArmName = Field(default="primitive", description="The simulated arm: `primitive`, of simple shapes, with two fingers that slide, or `so101`, the SO-101 as its makers describe it, with a jaw that turns (`pip install 'tercet[so101]'`).")


class RobotConfig(Section):
    """A robot, its leader arm, its units and its limits."""

    robot: str = Field(default="simulated", description="`simulated`, a robot supported by LeRobot (`so101_follower`, `so100_follower`), or module:function that returns one with its interface.")
    model: ArmName = Field(default="primitive", description="The hand of the robot, and what `robot=simulated` simulates: `primitive`, whose fingers slide, or `so101`, with a jaw that turns. It says where the middle between the finger tips is.")
    port: str = Field(default="", description="Port of a LeRobot robot, such as /dev/ttyACM0.")
    id: str = Field(default="", description="Name of the robot's calibration in LeRobot.")
    teacher: str = Field(default="none", description="Leader arm that a person moves: `none`, `simulated`, `so101_leader`, `so100_leader`, or module:function.")
    teacher_port: str = Field(default="", description="Port of the leader arm.")
    teacher_id: str = Field(default="", description="Name of the leader arm's calibration in LeRobot.")
    person: Literal["keyboard", "simulated"] = Field(default="keyboard", description="Who takes over and marks tries in `tercet arm improve DIR`: a person at the keyboard, or a stated rule, for robot=simulated (docs/real-arm.md).")
    person_delay: float = Field(default=0.5, ge=0.05, le=60, description="The simulated person takes over after this many seconds in which the task came no nearer.")
    person_errors: float = Field(default=0.05, ge=0, le=1, description="Fraction of the simulated person's takeovers that are missed, of the tries with a needless takeover, and of the marks that are wrong.")
    cube: str = Field(default="tercet.arm.robot.devices:seen_cube", description="module:function (observation -> x, y, z in metres, turn in radians) that locates the cube; the default reads `cube.x`, `cube.y`, `cube.z`, `cube.turn` of the observation. `none` is for a policy that uses images instead; success is then not detected.")
    cameras: dict[str, str] = Field(default={}, description="Cameras, by their names in the policy or recording: a number or path for OpenCV (/dev/video0); for the simulated robot `front`, `top` or `wrist`; for `tercet arm convert SOURCE DIR` the name of a camera of the recording.")
    camera_width: int = Field(default=640, ge=16, le=4096, description="Width of the images, which every camera must support.")
    camera_height: int = Field(default=480, ge=16, le=4096, description="Height of the images, which every camera must support.")
    camera_fps: int = Field(default=30, ge=1, le=240, description="Images per second of every camera.")
    goal: list[float] = Field(default=[0.19, 0.0, 0.08], min_length=3, max_length=3, description="Goal of the task, in metres, unless the task has it above the cube, as lift does.")
    start: list[float] = Field(default=[0.195, 0.0, 0.1], min_length=3, max_length=3, description="Initial position of the finger tips, in metres.")
    speed: float = Field(default=1.0, gt=0, le=1, description="Fraction of each movement of the policy that is executed; start with 0.3.")
    calibration: CalibrationConfig = CalibrationConfig()
    safety: SafetyConfig = SafetyConfig()

    @model_validator(mode="after")
    def _starts_inside(self) -> Self:
        box = (self.safety.workspace_x, self.safety.workspace_y, self.safety.workspace_z)
        for name, point in (("start", self.start), ("goal", self.goal)):
            for value, (low, high), axis in zip(point, box, "xyz", strict=True):
                if not low <= value <= high:
                    raise ValueError(f"{name}: {axis}={value} lies outside safety.workspace_{axis}=[{low}, {high}]")
        return self
