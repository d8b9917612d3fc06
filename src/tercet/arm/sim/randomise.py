"""Domain randomisation: cube, friction, delay, noise, camera, light and colours differ per episode (Tobin et al. 2017).

Off by default. Then all environments share one model.
"""

# pyright: reportAttributeAccessIssue=false
# (MuJoCo's compiled modules come without types)

from dataclasses import dataclass

import mujoco
import numpy as np
from numpy.typing import NDArray

from tercet.arm.sim.appearance import NUM_COLOURS, NUM_LIGHT, NUM_TEXTURE
from tercet.arm.sim.kinematics import Array
from tercet.arm.sim.scene import COLOURS, TABLES, cube_name
from tercet.errors import InputError


@dataclass(frozen=True)
class Randomisation:
    """Ranges from which the values of an episode are drawn uniformly."""

    mass: tuple[float, float] = (1.0, 1.0)  # of the cube, as a factor
    friction: tuple[float, float] = (1.0, 1.0)  # of cube and fingers, as a factor
    latency: tuple[int, int] = (0, 0)  # of actions, in steps of the environment
    camera: float = 0.0  # maximum displacement of a camera in each direction, in metres
    sensor_noise: float = 0.0  # standard deviation on each entry of an observation; entries have about unit scale
    light: float = 0.0  # maximum relative change of brightness, and change of the lamp's direction
    texture: float = 0.0  # share of random colours in those of table, cube and arm; above 0 the table's pattern changes

    def __post_init__(self) -> None:
        for name in ("mass", "friction", "latency"):
            low, high = getattr(self, name)
            least = 0 if name == "latency" else 0.01
            if not least <= low <= high < 1000:
                raise InputError(f"randomisation.{name}={low},{high}: must satisfy {least} <= low <= high < 1000")
        for name in ("camera", "sensor_noise"):
            if not 0 <= getattr(self, name) < 10:
                raise InputError(f"randomisation.{name}={getattr(self, name)}: must be at least 0 and below 10")
        for name in ("light", "texture"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"randomisation.{name}={getattr(self, name)}: must be from 0 to 1")

    @property
    def changes_models(self) -> bool:
        """Return True if each environment needs its own model."""
        return self.mass != (1.0, 1.0) or self.friction != (1.0, 1.0)

    @property
    def changes_appearance(self) -> bool:
        """Return True if light or colours differ."""
        return bool(self.light or self.texture)


@dataclass(frozen=True)
class Domain:
    """The drawn values, one row per environment."""

    mass: Array
    friction: Array
    latency: NDArray[np.int64]
    camera: Array  # (n, 3)
    light: Array  # (n, 4), see `appearance.py`
    texture: Array  # (n, 11)

    def put(self, mask: NDArray[np.bool_], other: "Domain") -> "Domain":
        """Return this domain with the rows where `mask` is True taken from `other`."""
        return Domain(
            mass=np.where(mask, other.mass, self.mass),
            friction=np.where(mask, other.friction, self.friction),
            latency=np.where(mask, other.latency, self.latency),
            camera=np.where(mask[:, None], other.camera, self.camera),
            light=np.where(mask[:, None], other.light, self.light),
            texture=np.where(mask[:, None], other.texture, self.texture),
        )


def draw(ranges: Randomisation, chance: np.random.Generator, count: int) -> Domain:
    """Draw values for `count` episodes."""
    return Domain(
        mass=chance.uniform(*ranges.mass, count),
        friction=chance.uniform(*ranges.friction, count),
        latency=chance.integers(ranges.latency[0], ranges.latency[1] + 1, count),
        camera=chance.uniform(-1.0, 1.0, (count, 3)) * ranges.camera,
        light=_light(ranges, chance, count),
        texture=_texture(ranges, chance, count),
    )


def _light(ranges: Randomisation, chance: np.random.Generator, count: int) -> Array:
    if not ranges.light:  # without a draw, so that the other draws do not depend on it
        return np.zeros((count, NUM_LIGHT))
    return chance.uniform(-1.0, 1.0, (count, NUM_LIGHT)) * ranges.light


def _texture(ranges: Randomisation, chance: np.random.Generator, count: int) -> Array:
    if not ranges.texture:
        return np.zeros((count, NUM_TEXTURE))
    patterns = chance.integers(len(TABLES), size=(count, 1))
    colours = chance.uniform(0.0, 1.0, (count, NUM_COLOURS))
    return np.concatenate([np.full((count, 1), ranges.texture), patterns, colours], axis=1)


def apply(model: mujoco.MjModel, original: mujoco.MjModel, *, mass: float, friction: float) -> None:
    """Give `model` the cubes' mass and the frictions of `original`, times these factors."""
    bodies = (mujoco.mj_name2id(original, mujoco.mjtObj.mjOBJ_BODY, cube_name(colour)) for colour in COLOURS)
    for cube in filter(lambda body: body >= 0, bodies):
        model.body_mass[cube] = original.body_mass[cube] * mass
        model.body_inertia[cube] = original.body_inertia[cube] * mass
    model.geom_friction[:] = original.geom_friction * friction
    mujoco.mj_setConst(model, mujoco.MjData(model))
