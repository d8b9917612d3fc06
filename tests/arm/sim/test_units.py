"""Actions in an environment's own units become those of a policy, or are refused."""

import numpy as np
import pytest
from gymnasium.spaces import Box

from tercet.arm.sim.units import converted
from tercet.errors import InputError

BOUNDS = Box(np.array([0.0, -3.0], np.float32), np.array([512.0, 1.0], np.float32))
OWN = np.array([[0.0, -3.0], [512.0, 1.0], [384.0, -1.0]])
SCALED = np.array([[-1.0, -1.0], [1.0, 1.0], [0.5, 0.0]])


def test_each_of_the_two_units_is_known_by_what_fits() -> None:
    for actions, units in ((OWN, "environment"), (SCALED, "scaled")):
        for stated in ("", units):
            found, known = converted(actions, stated, BOUNDS, source="r")
            assert known == units
            np.testing.assert_allclose(found, SCALED, rtol=0, atol=1e-6)


def test_actions_that_fit_both_must_say_what_they_are() -> None:
    bounds, actions = Box(-2.0, 2.0, (1,)), np.array([[-0.5], [0.8]])
    with pytest.raises(InputError, match=r"they fit both -1 to 1 and the environment's own bounds \(-2 to 2\)"):
        converted(actions, "", bounds, source="r")
    assert converted(actions, "environment", bounds, source="r")[0].ravel().tolist() == pytest.approx([-0.25, 0.4])
    assert converted(actions, "scaled", bounds, source="r")[0].ravel().tolist() == pytest.approx([-0.5, 0.8])
    # where the environment's own are -1 to 1, there is nothing to say
    assert converted(actions, "", Box(-1.0, 1.0, (1,)), source="r")[1] == "scaled"


@pytest.mark.parametrize(
    ("actions", "stated", "said"),
    [
        (OWN, "scaled", "must lie from -1 to 1, but action 0 goes from 0 to 512"),
        (
            SCALED,
            "environment",
            r"in the environment's own bounds \(0 to 512, -3 to 1\), but action 0 goes from -1 to 1",
        ),
        (OWN * 2, "", "must lie from -1 to 1 or in the environment's own bounds"),
        (OWN, "degrees", "action_units='degrees' is unknown"),
    ],
)
def test_what_does_not_fit_is_refused(actions: np.ndarray, stated: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        converted(actions, stated, BOUNDS, source="r")


def test_an_entry_that_cannot_change_is_zero() -> None:
    bounds = Box(np.array([0.0, 0.25], np.float32), np.array([4.0, 0.25], np.float32))
    found, units = converted(np.array([[1.0, 0.25], [3.0, 0.25]]), "", bounds, source="r")
    assert (found.tolist(), units) == ([[-0.5, 0.0], [0.5, 0.0]], "environment")
    with pytest.raises(InputError, match="but action 1"):
        converted(np.array([[1.0, 0.5]]), "environment", bounds, source="r")
