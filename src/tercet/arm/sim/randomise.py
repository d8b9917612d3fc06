"""Domain randomisation: cube, friction, delay, noise and camera differ per episode (Tobin et al. 2017).

Off by default. Then all environments share one model.
"""

# pyright: reportAttributeAccessIssue=false
# (MuJoCo's compiled modules come without types)

from dataclasses import dataclass

import mujoco
import numpy as np
from numpy.typing import NDArray

from tercet.arm.sim.kinematics import Array
from tercet.errors import InputError


@dataclass(frozen=True)
class Randomisation:
    """Ranges from which the values of an episode are drawn uniformly."""

    mass: tuple[float, float] = (1.0, 1.0)  # of the cube, as a factor
    friction: tuple[float, float] = (1.0, 1.0)  # of cube and fingers, as a factor
    latency: tuple[int, int] = (0, 0)  # of actions, in steps of the environment
    camera: float = 0.0  # maximum displacement of a camera in each direction, in metres
    sensor_noise: float = 0.0  # standard deviation on each entry of an observation; entries have about unit scale

    def __post_init__(self) -> None:
        for name in ("mass", "friction", "latency"):
            low, high = getattr(self, name)
            least = 0 if name == "latency" else 0.01
            if not least <= low <= high < 1000:
                raise InputError(f"randomisation.{name}={low},{high}: must satisfy {least} <= low <= high < 1000")
        for name in ("camera", "sensor_noise"):
            if not 0 <= getattr(self, name) < 10:
                raise InputError(f"randomisation.{name}={getattr(self, name)}: must be at least 0 and below 10")

    @property
    def changes_models(self) -> bool:
        """Return True if each environment needs its own model."""
        return self.mass != (1.0, 1.0) or self.friction != (1.0, 1.0)


@dataclass(frozen=True)
class Domain:
    """The drawn values, one row per environment."""

    mass: Array
    friction: Array
    latency: NDArray[np.int64]
    camera: Array  # (n, 3)

    def put(self, mask: NDArray[np.bool_], other: "Domain") -> "Domain":
        """Return this domain with the rows where `mask` is True taken from `other`."""
        return Domain(
            mass=np.where(mask, other.mass, self.mass),
            friction=np.where(mask, other.friction, self.friction),
            latency=np.where(mask, other.latency, self.latency),
            camera=np.where(mask[:, None], other.camera, self.camera),
        )


def draw(ranges: Randomisation, chance: np.random.Generator, count: int) -> Domain:
    """Draw values for `count` episodes."""
    return Domain(
        mass=chance.uniform(*ranges.mass, count),
        friction=chance.uniform(*ranges.friction, count),
        latency=chance.integers(ranges.latency[0], ranges.latency[1] + 1, count),
        camera=chance.uniform(-1.0, 1.0, (count, 3)) * ranges.camera,
    )


def apply(model: mujoco.MjModel, original: mujoco.MjModel, *, mass: float, friction: float) -> None:
    """Give `model` the cube's mass and the frictions of `original`, times these factors."""
    cube = mujoco.mj_name2id(original, mujoco.mjtObj.mjOBJ_BODY, "cube")
    if cube >= 0:
        model.body_mass[cube] = original.body_mass[cube] * mass
        model.body_inertia[cube] = original.body_inertia[cube] * mass
    model.geom_friction[:] = original.geom_friction * friction
    mujoco.mj_setConst(model, mujoco.MjData(model))
