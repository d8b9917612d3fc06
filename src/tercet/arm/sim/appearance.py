"""Light, colours and patterns of the drawn scene, which domain randomisation changes in every episode.

They change pictures and nothing else, so one drawn model serves all environments and is changed before each picture.
"""

# pyright: reportAttributeAccessIssue=false
# (MuJoCo's compiled modules come without types)

import mujoco
import numpy as np

from tercet.arm.sim.kinematics import Array
from tercet.arm.sim.scene import COLOURS, TABLES, cube_name

NUM_LIGHT = 4  # numbers that describe the light: of the camera, of the lamp, and the direction of the lamp in x and y
NUM_COLOURS = 9  # red, green and blue of the table, the cube and the arm
NUM_TEXTURE = 2 + NUM_COLOURS  # the share of the random colours in the colours, the pattern of the table, and they


class Appearance:
    """Change how a model is drawn."""

    def __init__(self, model: mujoco.MjModel) -> None:
        self._model, headlight = model, model.vis.headlight
        names = ("light_diffuse", "light_dir", "geom_rgba", "mat_rgba", "geom_matid")
        values = {name: getattr(model, name) for name in names}
        self._values = values | {"ambient": headlight.ambient, "diffuse": headlight.diffuse}  # views of the model
        self._originals = {name: value.copy() for name, value in self._values.items()}
        table, *cubes = (
            mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_GEOM, name) for name in ("table", *map(cube_name, COLOURS))
        )
        self._table = table
        # two cubes are told apart by their colours, which an instruction names
        cube = [one for one in cubes if one >= 0]
        coloured = cube if len(cube) == 1 else []
        self._patterns = [mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_MATERIAL, name) for name in TABLES]
        goal = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_BODY, "goal")
        # the colour of a mesh is that of its material, which has no pattern
        arm = (model.geom_bodyid != goal) & (model.geom_matid < 0) & ~np.isin(np.arange(model.ngeom), cube)
        self._geoms = ([table], coloured, np.flatnonzero(arm).tolist())
        self._meshes = [one for one in range(model.nmat) if one not in self._patterns]

    def change(self, light: Array, texture: Array) -> None:
        """Set the appearance that `light` (4,) and `texture` (11,) describe; zeros are that of the model."""
        values = self._values
        for name, original in self._originals.items():
            values[name][:] = original
        values["ambient"] *= 1 + light[0]
        values["diffuse"] *= 1 + light[0]
        values["light_diffuse"] *= 1 + light[1]
        values["light_dir"][:, :2] += light[2:]
        share, colours = texture[0], texture[2:].reshape(3, 3)
        if not share:
            return
        values["geom_matid"][self._table] = self._patterns[int(texture[1])]
        for rows, colour in zip(self._geoms, colours, strict=True):
            values["geom_rgba"][rows, :3] = (1 - share) * values["geom_rgba"][rows, :3] + share * colour
        rows, colour = self._meshes, colours[2]
        values["mat_rgba"][rows, :3] = (1 - share) * values["mat_rgba"][rows, :3] + share * colour
