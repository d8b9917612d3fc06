"""Pictures of the poses: what moves is red, what is touched is green, and a terminal shows two pixels a character."""

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from tercet.arm.robot.pose_pictures import Album, as_text, write_page
from tercet.arm.robot.poses import all_steps
from tercet.arm.sim import kinematics
from tercet.arm.sim.cameras import Picture
from tercet.arm.sim.so101 import INSTALL, PACKAGE, So101
from tercet.errors import FailedError

pytestmark = pytest.mark.skipif(find_spec(PACKAGE) is None, reason=f"needs the model of the SO-101: {INSTALL}")


@pytest.fixture
def album() -> Iterator[Album]:
    made = Album()
    try:
        made.picture(all_steps(So101(), "a4")[0])
    except FailedError as error:
        pytest.skip(str(error))
    yield made
    made.close()


def share(picture: Picture, channel: int) -> float:
    """The share of the pixels in which this channel is far above the others."""
    others = np.delete(picture.astype(int), channel, axis=2).max(2)
    return float((picture[..., channel] - others > 60).mean())


@pytest.mark.slow
def test_what_moves_is_red_and_what_is_touched_is_green(album: Album, tmp_path: Path) -> None:
    steps = all_steps(So101(), "a4")
    jaw, touch = (album.picture(steps[k]) for k in (11, 12))
    assert share(jaw, 0) > 0.001 and share(touch, 0) == 0
    assert share(touch, 1) > 0 and share(jaw, 1) == 0
    write_page(tmp_path / "page.html", steps[11:13], album)
    page = (tmp_path / "page.html").read_text()
    assert page.count("data:image/png;base64,") == 2 and "1. open the jaw until it stops" in page


def test_a_terminal_shows_two_pixels_in_a_character() -> None:
    picture = np.zeros((4, 4, 3), np.uint8)
    picture[:2, :2] = (255, 0, 0)
    text = as_text(picture, 2)
    assert text.plain == "▀▀\n"
    (first, *_) = (str(span.style) for span in text.spans)
    assert first == "#ff0000 on #000000"


@pytest.mark.parametrize("paper", ["a4", "letter"])
def test_every_pose_is_above_the_table_and_every_touch_on_it(paper: str) -> None:
    arm = So101()
    steps = all_steps(arm, paper)  # type: ignore[arg-type]
    assert [step.key for step in steps[-3:]] == ["touch-middle", "touch-left", "touch-right"]
    for step in steps[:12]:
        assert kinematics.forward(step.joints[None, :5]).tip[0, 2] > 0.03, step.key
        low, high = arm.limits.T
        assert (step.joints[:5] >= low - 1e-9).all() and (step.joints[:5] <= high + 1e-9).all()
    for step in steps[12:]:
        hand = kinematics.forward(step.joints[None, :5])
        middle = hand.tip + arm.aside(hand.turn, np.zeros(1))
        np.testing.assert_allclose(middle[0, 2], 0.0, atol=1e-9)
    assert abs(steps[-2].joints[0] - steps[-1].joints[0]) > 1.0  # the pan turns from one corner to the other
