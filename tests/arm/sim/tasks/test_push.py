"""Push: progress."""

import pytest
from tests.arm.sim.tasks.conftest import readings

from tercet.arm.sim.scene import CUBE_HALF
from tercet.arm.sim.tasks.builtin import TASKS


def test_progress_of_push_starts_from_the_pushing_point() -> None:
    behind = readings(tip=[0.2, 0.08, CUBE_HALF])  # on the cube's far side, where pushing begins
    assert TASKS["push"].progress(behind)[0] == pytest.approx(-2 * 0.1)
