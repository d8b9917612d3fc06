"""LeRobot's XarmLift with a target that can be reached, and a scripted expert for it.

gym-xarm 0.1.1 compares the height of the cube above the table with a target height above the floor, which is beyond the
hand's own limit: no episode can succeed. Here the positions of hand and cube also count from the floor, and nothing
else differs. `env=benchmarks.xarm_lift:make_env` and `bc.demonstrations=benchmarks.xarm_lift:expert` take them.
"""

import gymnasium
import numpy as np
from gym_xarm import tasks  # pyright: ignore[reportMissingImports]  # not an extra: pip install --no-deps gym-xarm
from numpy.typing import NDArray

Array = NDArray[np.floating]

_ABOVE, _NEAR = 0.1, 0.02  # metres: the height at which the hand approaches, and how near it must be to close
_CLOSES, _HOLDS = 0.02, 0.2  # angles of the gripper, in radians, from which on it is closing, and holds the cube


class XarmLift(tasks.Lift):
    """Lift a cube by 15 cm. The episode ends in success."""

    @property
    def eef(self) -> Array:
        """Position of the hand, from the floor."""
        return super().eef + self.center_of_table

    @property
    def obj(self) -> Array:
        """Position of the cube, from the floor."""
        return super().obj + self.center_of_table


def make_env() -> gymnasium.Env[Array, Array]:
    """Create the environment."""
    return XarmLift(obs_type="state", render_mode="rgb_array")


def expert(observation: Array) -> Array:
    """Go above the cube, down, close, and lift."""
    way, angle = observation[6:9] - observation[:3], observation[-1]
    near = 2 * _NEAR if angle > _CLOSES else _NEAR  # noise on the actions must not open a hand that closes
    over = np.hypot(way[0], way[1]) < near
    if over and abs(way[2]) < near:
        return np.array([0.0, 0.0, 1.0 if angle > _HOLDS else 0.0, 1.0])
    above = np.array([0.0, 0.0, 0.0 if over else _ABOVE])
    return np.append(np.clip(20 * (way + above), -1.0, 1.0), -1.0)
