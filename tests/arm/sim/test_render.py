import gc
import os
import subprocess
import sys
import weakref
from collections.abc import Iterator

import numpy as np
import pytest
from tests.arm.conftest import drawable

from tercet.arm.sim.cameras import Camera
from tercet.arm.sim.env import ArmEnv, make_env
from tercet.arm.sim.randomise import Randomisation

BLUE = np.array([0.15, 0.45, 0.85])


@pytest.fixture
def env() -> Iterator[ArmEnv]:
    yield from drawable("lift", 2)


def blue(picture: np.ndarray) -> np.ndarray:
    """Where a picture is as blue as the cube."""
    colours = picture.astype(float)
    return (colours[..., 2] > 60) & (colours[..., 2] > 1.6 * colours[..., 0])


def test_a_picture_has_the_size_asked_for_and_shows_the_cube(env: ArmEnv) -> None:
    picture = env.render(0, width=160, height=120)
    assert picture.shape == (120, 160, 3) and picture.dtype == np.uint8
    assert 30 < blue(picture).sum() < 2000
    assert not blue(make_env("reach", 1).render(0, 160, 120)).any()


def test_the_picture_follows_the_cube(env: ArmEnv) -> None:
    heights = []
    for _ in range(26):
        heights.append(np.flatnonzero(blue(env.render(0, 160, 120)).any(1)).mean())
        env.step(env.expert_actions())
    assert heights[-1] < heights[0] - 5  # higher up in the picture


def test_cameras_differ_and_can_stand_aside(env: ArmEnv) -> None:
    front, top, wrist = (env.render(0, 64, 48, camera) for camera in ("front", "top", "wrist"))
    assert (front != top).any() and (top != wrist).any()
    moved = make_env("lift", 2, seed=0, randomisation=Randomisation(camera=0.03)).render(0, 64, 48)
    assert (moved != front).any()


def test_a_frame_shows_the_height_that_counts_as_success_to_people_alone(env: ArmEnv) -> None:
    def green(picture: np.ndarray) -> np.ndarray:
        colours = picture.astype(float)
        return (colours[..., 1] > 1.3 * colours[..., 0]) & (colours[..., 1] > 1.3 * colours[..., 2])

    assert green(env.render(0, 320, 240)).sum() > 100
    plain = env.pictures((Camera("front", 240, 320),), np.array([True, False]))[0][0]
    assert green(env.render(0, 320, 240, "front")).sum() > green(plain).sum() + 50


def test_a_picture_leaves_the_simulation_as_it_is(env: ArmEnv) -> None:
    before = env.snapshot()["physics"]
    env.render(1, 64, 48)
    np.testing.assert_array_equal(env.snapshot()["physics"], before)


def test_an_environment_that_nobody_closes_frees_its_renderers(env: ArmEnv) -> None:
    opened = ArmEnv("lift", 1)
    opened.render(0, 64, 48)
    (renderer,) = opened._studio._renderers.values()
    kept = weakref.ref(renderer)
    del opened, renderer
    gc.collect()
    assert kept() is None


def test_without_opengl_it_says_how_to_get_it() -> None:
    code = "from tercet.arm.sim.env import ArmEnv; e = ArmEnv('reach', 1); e.step(e.expert_actions()); e.render()"
    hidden = {name: value for name, value in os.environ.items() if name not in ("DISPLAY", "MUJOCO_GL")}
    hidden |= {"MUJOCO_EGL_DEVICE_ID": "99", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=hidden, check=False)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert "FailedError: cannot render" in last and "MUJOCO_GL=egl" in last and "MUJOCO_GL=osmesa" in last
