import numpy as np

from tercet.arm.sim.workspace import WORKSPACE, within_limits


def test_a_hand_that_is_sent_outside_goes_to_the_nearest_point_inside() -> None:
    inside = np.array([*WORKSPACE.mean(1), 0.5, 0.01])
    outside = np.array([1.0, -1.0, 0.0, -9.0, 1.0])
    hands = within_limits(np.stack([inside, outside]))
    np.testing.assert_array_equal(hands, [inside, [0.24, -0.12, 0.012, -1.2, 0.035]])
