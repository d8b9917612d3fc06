import gc
import os
import subprocess
import sys
from collections.abc import Iterator

import mujoco
import numpy as np
import pytest
from tests.arm.conftest import drawable

from tercet.arm.sim import opengl
from tercet.arm.sim.env import ArmEnv

BALL = "<mujoco><worldbody><light pos='0 0 3'/><geom size='1'/></worldbody></mujoco>"


@pytest.fixture
def env() -> Iterator[ArmEnv]:
    yield from drawable("reach", 1)


@pytest.fixture
def on_egl(env: ArmEnv) -> None:
    if opengl._CHOICE.GLContext.__module__ != "mujoco.egl":
        pytest.skip("EGL is not the backend")


def test_backend_is_read_when_a_renderer_opens(on_egl: None, env: ArmEnv, monkeypatch: pytest.MonkeyPatch) -> None:
    """MuJoCo chose GLFW at import; then other code, as a Gymnasium environment's, sets the variable."""
    from mujoco.glfw import GLContext

    monkeypatch.setattr(opengl._CHOICE, "GLContext", GLContext)
    monkeypatch.setenv("MUJOCO_GL", "egl")
    assert env.render(0, 32, 24).any()


def test_every_attempt_without_a_screen_is_an_error() -> None:
    """MuJoCo ends the process if it is called a second time without a context, so it must run in one of its own."""
    code = """
from tercet.arm.sim.env import ArmEnv
from tercet.errors import FailedError
for _ in range(2):
    try: ArmEnv("reach", 1).render()
    except FailedError as error: print(error)
"""
    hidden = {name: value for name, value in os.environ.items() if name not in ("DISPLAY", "WAYLAND_DISPLAY")}
    hidden |= {"MUJOCO_GL": "glfw", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=hidden, check=True)
    assert done.stdout.count("no OpenGL context could be created") == 2


def test_closed_and_collected_renderers_leave_the_pictures_of_others(env: ArmEnv) -> None:
    closed, collected = ArmEnv("lift", 1), ArmEnv("lift", 1)
    for other in (closed, collected):
        other.render(0, 64, 48)
    del other
    before = env.render(0, 64, 48)
    closed.close()
    np.testing.assert_array_equal(env.render(0, 64, 48), before)
    del collected
    gc.collect()
    np.testing.assert_array_equal(env.render(0, 64, 48), before)


def test_renderer_of_other_code_is_left_as_it_is(on_egl: None, env: ArmEnv) -> None:
    from OpenGL import EGL

    other = mujoco.Renderer(mujoco.MjModel.from_xml_string(BALL), 24, 32)
    data = mujoco.MjData(other.model)
    mujoco.mj_forward(other.model, data)
    other.update_scene(data)
    before = other.render()
    env.render(0, 64, 48)
    env.render(0, 32, 24)  # opens another renderer
    env.close()
    assert EGL.eglGetCurrentContext().address == other._gl_context._context.address
    np.testing.assert_array_equal(other.render(), before)
    other.close()
    env.render(0, 64, 48)
    assert not EGL.eglGetCurrentContext()
