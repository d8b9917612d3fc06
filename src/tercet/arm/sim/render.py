"""Off-screen rendering of the arm."""

# pyright: reportAttributeAccessIssue=false
# (MuJoCo's compiled modules come without types)

import atexit
import weakref

import mujoco
import numpy as np
from numpy.typing import NDArray

from tercet.arm.sim import opengl
from tercet.arm.sim.appearance import Appearance
from tercet.arm.sim.kinematics import Array
from tercet.errors import FailedError, first_line

_GREEN = np.array([0.1, 0.8, 0.25, 1.0], np.float32)  # as the goal
_SIDE, _THIN = 0.1, 0.0012  # metres of the frame and of its rods
_HELP = (
    "install a software renderer and choose it: apt-get install libegl1 libgl1-mesa-dri, then MUJOCO_GL=egl; "
    "or apt-get install libosmesa6, then MUJOCO_GL=osmesa"
)


class Studio:
    """Draw states of one model. One renderer is kept per picture size.

    `plain` pictures, for policies, have no shadows, coarser shapes and no antialiasing. In software they take a tenth
    of the time.
    """

    def __init__(self, model: mujoco.MjModel) -> None:
        self._model, self.appearance = model, Appearance(model)
        self._data = mujoco.MjData(model)
        self._renderers: dict[tuple[int, int, bool], mujoco.Renderer] = {}
        # an environment that nobody closes must not keep its renderers, 100 MB each, until the process ends
        weakref.finalize(self, _free, self._renderers)

    def picture(
        self,
        state: Array,
        goal: Array,
        *,
        width: int,
        height: int,
        camera: str,
        aside: Array,
        plain: bool = False,
        level: float | None = None,
    ) -> NDArray[np.uint8]:
        """Render a full physics state as (height, width, 3), with the camera moved by `aside` (3,).

        With `level`, draw a frame around the goal at that height. Raise FailedError without OpenGL.
        """
        renderer = self._renderer(width, height, plain)
        mujoco.mj_setState(self._model, self._data, state, int(mujoco.mjtState.mjSTATE_FULLPHYSICS))
        self._data.mocap_pos[0] = goal
        mujoco.mj_forward(self._model, self._data)
        self._data.cam(camera).xpos[:] += aside
        renderer.update_scene(self._data, camera=camera)
        if level is not None:
            _draw_frame(renderer.scene, np.array([*goal[:2], level]))
        with opengl.current_context_kept():
            return renderer.render()

    def close(self) -> None:
        """Free the OpenGL contexts."""
        _free(self._renderers)

    def _renderer(self, width: int, height: int, plain: bool) -> mujoco.Renderer:
        if (width, height, plain) not in self._renderers:
            self._renderers[width, height, plain] = _open(self._model, width, height, plain)
            # registered after MuJoCo's function that ends EGL, so it runs before it
            atexit.register(_free, self._renderers)
        return self._renderers[width, height, plain]


def _free(renderers: dict[tuple[int, int, bool], mujoco.Renderer]) -> None:
    for renderer in renderers.values():
        with opengl.current_context_kept():
            # otherwise the objects of another context, which have the same numbers, are deleted
            if renderer._gl_context:  # None once it is closed
                renderer._gl_context.make_current()
            renderer.close()
    renderers.clear()


def _draw_frame(drawn: mujoco.MjvScene, middle: Array) -> None:
    """Draw a horizontal square of thin rods around a point (3,). It is not part of the simulation."""
    across = _SIDE / 2 * np.array([[-1, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]])
    for corner, following in zip(across, np.roll(across, -1, 0), strict=True):
        geom = drawn.geoms[drawn.ngeom]
        mujoco.mjv_initGeom(geom, mujoco.mjtGeom.mjGEOM_CAPSULE, np.zeros(3), np.zeros(3), np.eye(3).ravel(), _GREEN)
        mujoco.mjv_connector(geom, mujoco.mjtGeom.mjGEOM_CAPSULE, _THIN, middle + corner, middle + following)
        drawn.ngeom += 1


def _open(model: mujoco.MjModel, width: int, height: int, plain: bool) -> mujoco.Renderer:
    limit = model.vis.global_.offwidth, model.vis.global_.offheight
    if width > limit[0] or height > limit[1]:
        raise FailedError(f"cannot render an image of {width} x {height}: the maximum is {limit[0]} x {limit[1]}")
    try:
        opengl.choose_backend()
        with opengl.current_context_kept():
            opengl.try_context(width, height)
            return _plain(model, width, height) if plain else mujoco.Renderer(model, height, width)
    except Exception as error:  # each library raises another exception for a missing driver
        raise FailedError(
            f"cannot render: OpenGL does not work without a screen ({first_line(error)}); {_HELP}"
        ) from error


def _plain(model: mujoco.MjModel, width: int, height: int) -> mujoco.Renderer:
    """Open a renderer with lower quality. MuJoCo reads the quality from the model when a renderer opens."""
    quality = model.vis.quality
    names = ("offsamples", "numslices", "numstacks")
    before = [getattr(quality, name) for name in names]
    for name, value in zip(names, (0, 12, 8), strict=True):
        setattr(quality, name, value)
    try:
        renderer = mujoco.Renderer(model, height, width)
    finally:
        for name, value in zip(names, before, strict=True):
            setattr(quality, name, value)
    renderer.scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = 0
    return renderer
