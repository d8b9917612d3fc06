"""Readings of one environment, with chosen values."""

import numpy as np

from tercet.arm.sim.readings import Readings
from tercet.arm.sim.scene import CUBE_HALF


def readings(**given: list[float] | float) -> Readings:
    """One environment: the tip, an open hand, a cube and a goal in different places, changed by `given`."""
    values: dict = {
        "tip": [0.19, 0.0, 0.1],
        "aside": [0.0, 0.0, 0.0],
        "turn": 0.0,
        "opening": 0.03,
        "target": [0.19, 0.0, 0.1],
        "target_turn": 0.0,
        "target_opening": 0.03,
        "cube": [0.2, 0.05, CUBE_HALF],
        "cube_turn": 0.0,
        "cube_velocity": [0.0, 0.0, 0.0],
        "goal": [0.2, -0.05, CUBE_HALF],
    }
    return Readings(**{name: np.array([value], float) for name, value in {**values, **given}.items()})
