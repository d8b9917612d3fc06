"""Lift: success."""

from tests.arm.sim.tasks.conftest import readings

from tercet.arm.sim.tasks.builtin import TASKS


def test_lift_succeeds_5_cm_up_and_in_the_hand() -> None:
    up = readings(cube=[0.2, 0.0, 0.066], tip=[0.2, 0.0, 0.07])
    assert TASKS["lift"].success(up)[0]
    assert not TASKS["lift"].success(readings(cube=[0.2, 0.0, 0.064], tip=[0.2, 0.0, 0.07]))[0]
    assert not TASKS["lift"].success(readings(cube=[0.2, 0.0, 0.066], tip=[0.2, 0.04, 0.07]))[0]  # thrown
