"""Pictures as a policy gets them: from the simulation, fitted from larger ones, moved with the camera."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from tests.arm.conftest import drawable

from tercet.arm.play.agent import camera_view
from tercet.arm.sim.cameras import Camera, as_picture, framed
from tercet.arm.sim.env import ArmEnv
from tercet.arm.sim.randomise import Randomisation
from tercet.config.load import load_arm_config
from tercet.errors import InputError

FRONT, WRIST = Camera("front", 64, 64), Camera("wrist", 48, 96)


@pytest.fixture
def env() -> Iterator[ArmEnv]:
    yield from drawable("lift", 3)


def test_a_larger_picture_is_cut_around_its_middle_and_resized() -> None:
    columns = np.broadcast_to(np.arange(160, dtype=np.uint8)[None, :, None], (80, 160, 3))
    found = Camera("front", 40, 40).fitted(columns)
    assert found.shape == (40, 40, 3)
    # columns 40 to 120 are left, two to a pixel
    np.testing.assert_allclose(found[20, 1:-1, 0], 40.5 + 2 * np.arange(1, 39), atol=1)
    same = np.zeros((40, 40, 3), np.uint8)
    assert Camera("front", 40, 40).fitted(same) is same


def test_anothers_picture_is_shown_whole_and_in_its_shape() -> None:
    square = np.zeros((200, 200, 3), np.uint8)
    square[..., 0] = 200
    found = framed(square, 320, 240)
    assert found.shape == (240, 320, 3)
    red = found[..., 2] == 0
    assert (red.sum(1) == 240).all() and (red.sum(0)[40:280] == 240).all()


@pytest.mark.parametrize(
    "drawn",
    [
        np.full((2, 2, 3), 51, np.uint8),
        np.full((2, 2, 3), 0.2, np.float32),
        np.full((2, 2, 3), 51.0),
        np.full((2, 2), 51, np.int64),
        np.full((2, 2, 1), 51, np.uint8),
        np.full((2, 2, 4), 51, np.uint8),
    ],
)
def test_pictures_of_floats_grey_ones_and_transparent_ones_are_as_bright_as_they_were_drawn(drawn: np.ndarray) -> None:
    found = as_picture(drawn)
    assert found is not None
    np.testing.assert_array_equal(found, np.full((2, 2, 3), 51, np.uint8))


@pytest.mark.parametrize("drawn", [None, [np.zeros((2, 2, 3))], np.zeros((2, 2, 2)), np.zeros(3), np.array("x")])
def test_what_is_no_picture_is_none(drawn: object) -> None:
    assert as_picture(drawn) is None


def test_what_a_camera_of_another_shape_sees_fits_what_is_drawn_at_once(env: ArmEnv) -> None:
    """A robot's 4:3 picture, cut and resized, is the square one that the policy learned from."""
    rows = np.arange(3) == 0
    drawn, wide = (env.pictures([Camera("front", *size)], rows)[0][0] for size in ((64, 64), (240, 320)))
    difference = np.abs(FRONT.fitted(wide).astype(float) - drawn)
    assert difference.mean() < 4
    squeezed = Camera("front", 64, 64).fitted(wide[:, :240])
    assert np.abs(squeezed.astype(float) - drawn).mean() > 3 * difference.mean()


def test_each_camera_sees_the_environments_that_were_named(env: ArmEnv) -> None:
    front, wrist = env.pictures([FRONT, WRIST], np.array([False, True, True]))
    assert front.shape == (2, 64, 64, 3) and wrist.shape == (2, 48, 96, 3)
    alone = env.pictures([FRONT], np.array([False, False, True]))[0]
    np.testing.assert_array_equal(alone[0], front[1])
    assert (front[0] != front[1]).any()
    before = env.snapshot()["physics"]
    env.pictures([FRONT], np.ones(3, bool))
    np.testing.assert_array_equal(env.snapshot()["physics"], before)


def test_a_camera_that_stands_aside_shows_every_episode_otherwise(env: ArmEnv) -> None:
    moved = ArmEnv("lift", 3, seed=0, randomisation=Randomisation(camera=0.03))
    everywhere = np.ones(3, bool)
    one, other = (where.pictures([FRONT], everywhere)[0].astype(float) for where in (env, moved))
    assert (np.abs(one - other).mean((1, 2, 3)) > 2).all()
    moved.reset(options={"reset_mask": everywhere})
    env.reset(options={"reset_mask": everywhere})
    again = moved.pictures([FRONT], everywhere)[0] - env.pictures([FRONT], everywhere)[0].astype(float)
    assert np.abs(again - (other - one)).mean() > 2
    moved.close()


def test_cameras_that_there_are_not_are_named(env: ArmEnv) -> None:
    with pytest.raises(InputError, match="unknown camera 'behind'; the arm has front, top, wrist"):
        env.pictures([Camera("behind", 32, 32)], np.ones(3, bool))
    assert camera_view(env, ())(torch.ones(3, dtype=torch.bool)) == ()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["policy.cameras=[front]"], "cameras and sees are for kind=act, conv, smolvla and openvla"),
        (["policy.kind=act", "policy.cameras=[front,front]"], "must differ"),
        (["policy.kind=act", "policy.cameras=[front]", "policy.image_size=[8,64]"], "each side must be from 32 to 960"),
    ],
)
def test_a_config_without_sense_is_refused(given: list[str], said: str) -> None:
    with pytest.raises(InputError, match=said):
        load_arm_config("lift", given)
