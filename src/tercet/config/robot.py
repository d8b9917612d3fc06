"""The config of a robot that actions are sent to: how to reach it, its units, its limits; a table of its own."""

from typing import Self

from pydantic import Field, model_validator

from tercet.config.section import Section

REACH = 1.0  # metres: no arm of this kind comes so far


class JointConfig(Section):
    """A joint's units: our degrees are degrees_per_unit * (value - zero)."""

    zero: float = Field(default=0.0, ge=-1e6, le=1e6, description="The robot's number where our joint is at zero.")
    degrees_per_unit: float = Field(default=1.0, ge=-360, le=360, description="Our degrees for one of the robot's units; below 0 where it turns the other way.")
    low: float = Field(default=-95.0, ge=-400, le=400, description="Least number that may be sent, in the robot's units.")
    high: float = Field(default=95.0, ge=-400, le=400, description="Greatest number that may be sent.")

    @model_validator(mode="after")
    def _is_a_range(self) -> Self:
        if self.degrees_per_unit == 0:
            raise ValueError("degrees_per_unit=0 would leave the joint without a direction")
        if self.low >= self.high:
            raise ValueError(f"low={self.low} must be below high={self.high}")
        return self


class GripperConfig(Section):
    """The gripper's units, linear between two openings that were measured."""

    closed: float = Field(default=0.0, ge=-1e6, le=1e6, description="The robot's number with the fingers together.")
    wide: float = Field(default=50.0, ge=-1e6, le=1e6, description="The robot's number with the finger tips 7 cm apart, as wide as the simulation's go.")

    @model_validator(mode="after")
    def _moves(self) -> Self:
        if self.closed == self.wide:
            raise ValueError("closed and wide must differ")
        return self


class CalibrationConfig(Section):
    """From the robot's numbers to the joints of docs/real-arm.md, and back."""

    shoulder_pan: JointConfig = JointConfig()
    shoulder_lift: JointConfig = JointConfig()
    elbow_flex: JointConfig = JointConfig()
    wrist_flex: JointConfig = JointConfig()
    wrist_roll: JointConfig = JointConfig()
    gripper: GripperConfig = GripperConfig()


class SafetyConfig(Section):
    """Limits on everything that is sent, whoever wants it sent; there is no switch that turns them off."""

    workspace_x: list[float] = Field(default=[0.12, 0.26], min_length=2, max_length=2, description="Where the finger tips may be, metres before the shoulder's axis: least and most.")
    workspace_y: list[float] = Field(default=[-0.14, 0.14], min_length=2, max_length=2, description="The same to the left.")
    workspace_z: list[float] = Field(default=[0.008, 0.16], min_length=2, max_length=2, description="The same above the table.")
    max_speed: float = Field(default=90.0, gt=0, le=360, description="Of a joint, degrees a second.")
    max_acceleration: float = Field(default=600.0, gt=0, le=7200, description="Of a joint, degrees a second, a second.")
    gripper_speed: float = Field(default=0.15, gt=0, le=1, description="Of a finger, metres a second.")
    gripper_acceleration: float = Field(default=1.5, gt=0, le=20, description="Of a finger, metres a second, a second.")
    deadline: float = Field(default=0.15, gt=0, le=1, description="Seconds from an observation after which a command that answers it is not sent; the arm holds.")
    max_lag: float = Field(default=15.0, gt=0, le=60, description="Degrees that a joint may stay behind what was sent; beyond, it is blocked, and everything stops.")

    @model_validator(mode="after")
    def _holds_space(self) -> Self:
        for name in ("workspace_x", "workspace_y", "workspace_z"):
            low, high = getattr(self, name)
            if not -REACH <= low < high <= REACH:
                raise ValueError(f"{name}=[{low}, {high}]: the first must be below the second, both from -{REACH} to {REACH}")
        return self


class RobotConfig(Section):
    """A robot, its teacher's arm, its units and its limits."""

    robot: str = Field(default="simulated", description="`simulated`, a robot that LeRobot knows (`so101_follower`, `so100_follower`), or module:function that returns one with its interface.")
    port: str = Field(default="", description="Where it is connected, such as /dev/ttyACM0; for LeRobot's robots.")
    id: str = Field(default="", description="The name under which LeRobot keeps its calibration.")
    teacher: str = Field(default="none", description="What a person steers with: `none`, `simulated`, `so101_leader`, `so100_leader`, or module:function.")
    teacher_port: str = Field(default="", description="Where that is connected.")
    teacher_id: str = Field(default="", description="The name under which LeRobot keeps its calibration.")
    cube: str = Field(default="tercet.arm.robot:seen_cube", description="module:function (observation -> x, y, z in metres, turn in radians): where the cube is; the default reads `cube.x`, `cube.y`, `cube.z`, `cube.turn` of the observation. `none`: nobody says, for a policy that finds it in pictures; then nobody notices success either.")
    cameras: dict[str, str] = Field(default={}, description="Cameras by the names that a policy or a recording has for them: a number or path as OpenCV takes it (/dev/video0); of the simulated robot `front`, `top` or `wrist`.")
    camera_width: int = Field(default=640, ge=16, le=4096, description="Of their pictures, as LeRobot reads them; every camera must be able to.")
    camera_height: int = Field(default=480, ge=16, le=4096, description="Likewise.")
    camera_fps: int = Field(default=30, ge=1, le=240, description="Their pictures a second.")
    goal: list[float] = Field(default=[0.19, 0.0, 0.08], min_length=3, max_length=3, description="Where to go (reach, place, push), metres; lift's is above the cube.")
    start: list[float] = Field(default=[0.195, 0.0, 0.1], min_length=3, max_length=3, description="Where the finger tips go before the policy begins, metres.")
    speed: float = Field(default=1.0, gt=0, le=1, description="Share of each of the policy's movements that is made; begin with 0.3.")
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
