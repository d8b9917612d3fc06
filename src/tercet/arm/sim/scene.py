"""The MuJoCo model of the arm of primitives, without mesh files, and the table, cube and cameras of every arm.

Joints, lengths, masses and motors are near those of the SO-101 (`kinematics`); its one-sided jaw is replaced by two
fingers that slide. Only fingers, palm, cube and table collide: in the workspace no other parts can touch.
"""

# pyright: reportAttributeAccessIssue=false
# (MuJoCo's compiled modules come without types)

import mujoco

from tercet.arm.sim import kinematics as k

TIMESTEP = 0.005
SUBSTEPS = 10  # a step of the environment: 20 Hz

CUBE_HALF = 0.015
COLOURS = {"blue": ".15 .45 .85 1", "red": ".85 .2 .15 1"}  # of the cubes, in their order in the state
OPENING = 0.035  # maximum distance of each finger from the middle
FINGER_BELOW_TIP = 0.008  # length of a finger below the point between the finger tips

# of fingers and cube: they must hold a cube without slipping or sinking in
FINGER_FRICTION, SOLREF, SOLIMP = (1.5, 0.02, 0.001), (0.01, 1.0), (0.95, 0.99, 0.001)

TABLES = ("table", "coarse", "speckled", "plain")  # patterns of the table; only randomisation uses the others
CAMERAS = ("front", "top", "wrist")  # available to policies
VIEW = "near"  # for people: a close view of fingers and cube

NUM_JOINTS = len(k.JOINTS)
FINGERS = ("left", "right")  # the names of what measures the force on each, on every arm
NUM_FINGERS = len(FINGERS)

_ROLL_TO_TIP = k.HAND - k.WRIST_TO_ROLL
_FINGER_HALF = 0.018
_FINGER_CENTRE = _ROLL_TO_TIP + FINGER_BELOW_TIP - _FINGER_HALF
_PALM = _FINGER_CENTRE - _FINGER_HALF - 0.012
_TORQUE = 3.35  # N m, a STS3215 servo at 12 V

_DARK, _LIGHT = ".16 .17 .2 1", ".95 .62 .12 1"

# collision groups, table 1, hand 2 and cubes 4: fingers collide with the table, cubes with all; fingers not with each
# other
_CONTACT_OF = {
    "table": 'contype="1" conaffinity="0"',
    "finger": 'contype="2" conaffinity="1"',
    "palm": 'contype="2" conaffinity="0"',
    "cube": 'contype="4" conaffinity="7"',
}


def build(*, num_cubes: int) -> mujoco.MjModel:
    """Build the model: five joints, two fingers, and cubes on free joints in the order of `COLOURS`, in this order."""
    return mujoco.MjModel.from_xml_string(_mjcf(num_cubes))


def surroundings(arm: str, *, num_cubes: int) -> str:
    """Return the MJCF of everything around an arm. Its bodies are put before the cube, as they are in the state."""
    return f"""
  <option timestep="{TIMESTEP}" integrator="implicitfast" cone="elliptic" impratio="10">
    <flag autoreset="disable"/>
  </option>
  <size memory="1M"/>
  <statistic center=".15 0 .1" extent=".5"/>
  <visual>
    <global offwidth="1280" offheight="960"/>
    <headlight ambient=".3 .3 .3" diffuse=".3 .3 .3"/>
    <quality shadowsize="1024"/>
  </visual>
  <asset>
    <texture name="sky" type="skybox" builtin="gradient" rgb1="1 1 1" rgb2=".72 .8 .9" width="64" height="64"/>
    <texture name="table" type="2d" builtin="checker" rgb1=".86 .88 .9" rgb2=".8 .82 .85" width="128" height="128"/>
    <material name="table" texture="table" texrepeat="20 20" specular="0"/>
    <texture name="coarse" type="2d" builtin="checker" rgb1="1 1 1" rgb2=".55 .55 .55" width="64" height="64"/>
    <material name="coarse" texture="coarse" texrepeat="9 9" specular="0"/>
    <texture name="speckled" type="2d" builtin="flat" mark="random" random=".05" rgb1=".9 .9 .9" markrgb=".4 .4 .4"
     width="128" height="128"/>
    <material name="speckled" texture="speckled" texrepeat="6 6" specular="0"/>
    <material name="plain" specular="0"/>
  </asset>
  <worldbody>
    <light pos=".3 -.4 1.2" dir="-.1 .3 -1" directional="true" diffuse=".4 .4 .4"/>
    <geom name="table" type="plane" size="1 1 .1" material="table" rgba="1 1 1 1" friction=".5 .01 .001"
     {_CONTACT_OF["table"]}/>
    <camera name="front" pos="0.5 -0.38 0.33" xyaxes="0.721 0.693 0.000 -0.272 0.283 0.920"/>
    <camera name="{VIEW}" pos=".41 -.23 .18" xyaxes="0.721 0.693 0.000 -0.272 0.283 0.920"/>
    <camera name="top" pos=".17 0 .6" xyaxes="0 -1 0 1 0 0"/>
    {arm}
    {"".join(_cube(colour) for colour in list(COLOURS)[:num_cubes])}
    <body name="goal" mocap="true" pos=".2 0 .1">
     <geom type="sphere" size=".01" rgba=".1 .8 .25 .45" contype="0" conaffinity="0"/>
    </body>
  </worldbody>
  <sensor>{"".join(f'<touch name="{name}" site="{name}"/>' for name in FINGERS)}</sensor>"""


def _mjcf(num_cubes: int) -> str:
    return f"""
<mujoco model="tercet_arm">
  <compiler angle="radian" autolimits="true"/>
  <default>
    <joint damping=".6" armature=".028"/>
    <position kp="60" kv="4" forcerange="-{_TORQUE} {_TORQUE}"/>
    <geom contype="0" conaffinity="0" rgba="{_LIGHT}" density="0"/>
    <default class="grip">
      <geom type="box" condim="4" friction="{_xml(FINGER_FRICTION)}" solref="{_xml(SOLREF)}" solimp="{_xml(SOLIMP)}"
       rgba="{_DARK}"/>
      <joint type="slide" range="0 {OPENING}" damping="2" armature=".05"/>
    </default>
  </default>
  {surroundings(_arm(), num_cubes=num_cubes)}
  <actuator>
    {"".join(f'<position name="{name}" joint="{name}"/>' for name in k.JOINTS)}
    {"".join(f'<position name="{name}" joint="{name}" kp="200" kv="10" forcerange="-6 6"/>' for name in FINGERS)}
  </actuator>
</mujoco>"""


def _xml(numbers: tuple[float, ...]) -> str:
    return " ".join(map(str, numbers))


def _arm() -> str:
    ranges = {name: f'range="{low} {high}"' for name, (low, high) in zip(k.JOINTS, k.LIMITS, strict=True)}
    return f"""
<geom type="cylinder" size=".05 .02" pos="0 0 .02" rgba="{_DARK}"/>
<body name="shoulder" gravcomp="1"><joint name="shoulder_pan" axis="0 0 1" {ranges["shoulder_pan"]}/>
 <geom type="cylinder" size=".032 .035" pos="0 0 .075" mass=".1"/>
 <geom type="box" size=".02 .028 .02" pos="{k.SHOULDER_FORWARD} 0 {k.SHOULDER_HEIGHT}" rgba="{_DARK}"/>
 <body name="upper_arm" pos="{k.SHOULDER_FORWARD} 0 {k.SHOULDER_HEIGHT}" gravcomp="1">
  <joint name="shoulder_lift" axis="0 1 0" {ranges["shoulder_lift"]}/>
  <geom type="capsule" size=".017" fromto="0 0 0 0 0 {k.UPPER_ARM}" mass=".103"/>
  <body name="forearm" pos="0 0 {k.UPPER_ARM}" euler="0 {1.5707963267948966} 0" gravcomp="1">
   <joint name="elbow_flex" axis="0 1 0" {ranges["elbow_flex"]}/>
   <geom type="cylinder" size=".02 .022" euler="1.5707963 0 0" rgba="{_DARK}"/>
   <geom type="capsule" size=".015" fromto="0 0 0 0 0 {k.FOREARM}" mass=".104"/>
   <body name="wrist" pos="0 0 {k.FOREARM}" gravcomp="1">
    <joint name="wrist_flex" axis="0 1 0" {ranges["wrist_flex"]}/>
    <geom type="cylinder" size=".017 .02" euler="1.5707963 0 0" rgba="{_DARK}"/>
    <geom type="capsule" size=".014" fromto="0 0 0 0 0 {k.WRIST_TO_ROLL - 0.012}" mass=".079"/>
    <body name="hand" pos="0 0 {k.WRIST_TO_ROLL}" gravcomp="1">
     <joint name="wrist_roll" axis="0 0 1" {ranges["wrist_roll"]}/>
     <camera name="wrist" pos=".06 0 .02" xyaxes="0 1 0 .85 0 .53" fovy="70"/>
     <geom type="cylinder" size=".015" fromto="0 0 -.012 0 0 {_PALM}" rgba="{_DARK}"/>
     <geom class="grip" name="palm" size=".016 .048 .01" pos="0 0 {_PALM}" mass=".087" {_CONTACT_OF["palm"]}/>
     <site name="tip" pos="0 0 {_ROLL_TO_TIP}" size=".004" rgba="0 1 0 0"/>
     {"".join(_finger(name, side) for name, side in zip(FINGERS, (1, -1), strict=True))}
    </body>
   </body>
  </body>
 </body>
</body>"""


def _finger(name: str, side: int) -> str:
    return f"""
<body name="{name}" pos="0 0 {_FINGER_CENTRE}" gravcomp="1">
 <joint name="{name}" class="grip" axis="0 {side} 0"/>
 <geom name="{name}" class="grip" size=".010 .004 {_FINGER_HALF}" pos="0 {0.004 * side} 0" mass=".012"
  {_CONTACT_OF["finger"]}/>
 <site name="{name}" type="box" size=".012 .006 {_FINGER_HALF + 0.002}" pos="0 {0.004 * side} 0" rgba="0 0 0 0"/>
</body>"""


def _cube(colour: str) -> str:
    name = cube_name(colour)
    return f"""
<body name="{name}" pos=".19 0 {CUBE_HALF}"><freejoint name="{name}"/>
 <geom name="{name}" type="box" size="{CUBE_HALF} {CUBE_HALF} {CUBE_HALF}" mass=".016" condim="4"
  friction=".5 .02 .001" solref="{_xml(SOLREF)}" solimp="{_xml(SOLIMP)}" rgba="{COLOURS[colour]}"
  {_CONTACT_OF["cube"]}/>
</body>"""


def cube_name(colour: str) -> str:
    """Return the name of the body, joint and geom of a cube. The one that every task with a cube has is `cube`."""
    return "cube" if colour == next(iter(COLOURS)) else f"{colour} cube"
