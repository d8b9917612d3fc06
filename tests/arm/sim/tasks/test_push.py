"""Push: progress, and how the expert steers the cube."""

from dataclasses import replace

import pytest
from tests.arm.sim.tasks.conftest import readings

from tercet.arm.sim.scene import CUBE_HALF
from tercet.arm.sim.tasks.builtin import TASKS


def test_progress_of_push_starts_from_the_pushing_point() -> None:
    behind = readings(tip=[0.2, 0.08, CUBE_HALF])  # on the cube's far side, where pushing begins
    assert TASKS["push"].progress(behind)[0] == pytest.approx(-2 * 0.1)


@pytest.mark.parametrize(("drags", "aside"), [(False, -0.006), (True, 0.0)])
def test_only_wide_fingers_steer_a_cube_by_moving_aside(drags: bool, aside: float) -> None:
    behind = [0.206, 0.08, 0.012]  # 3 cm behind the cube, 6 mm beside the line to the goal
    now = replace(readings(tip=behind, target=behind, opening=0.0, target_opening=0.0), drags=drags)
    move = TASKS["push"].expert(now).move[0]
    assert move[0] == pytest.approx(aside, abs=1e-9)
    assert move[1] == pytest.approx(-0.012)  # to 18 mm behind the cube
