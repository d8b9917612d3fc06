"""A learned policy that steers: its chunks are done as in training, and dropped where somebody else steered."""

import numpy as np
import pytest
import torch

from tercet.arm.networks.sizes import Sizes
from tercet.arm.play.agent import Agent
from tercet.arm.policies.kinds import new_policy
from tercet.arm.policies.policy import Policy
from tercet.arm.robot.devices import find_cube
from tercet.arm.robot.pilot import Pilot, StateEstimator, action_between, joints_for, start_joints, wanted_action
from tercet.arm.sim.arms import find_arm
from tercet.arm.sim.kinematics import Array
from tercet.arm.sim.scene import OPENING
from tercet.arm.sim.tasks.builtin import TASKS
from tercet.config.arm import PolicyConfig

HOME = start_joints([0.19, 0.0, 0.1], 0.03)
SEEN = np.random.default_rng(0).normal(size=(9, 1, 7))


@pytest.fixture(params=["gaussian", "act", "diffusion"])
def policy(request: pytest.FixtureRequest) -> Policy:
    made = new_policy(Sizes(7, 5), PolicyConfig(kind=request.param, hidden_size=16, num_layers=1), seed=0)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return made


def in_training(policy: Policy, fresh: list[bool]) -> list[Array]:
    """Where the actions that training takes after these observations would send an arm that stands at HOME."""
    acting = Agent(policy)
    with torch.no_grad():
        actions = [
            acting(step, torch.from_numpy(SEEN[step].astype(np.float32)), torch.tensor([begins]))
            for step, begins in enumerate(fresh)
        ]
    return [joints_for(HOME, action.clamp(-1, 1).double().numpy()) for action in actions]


@pytest.mark.parametrize("dropped_at", [0, 2, 5])
def test_actions_equal_those_of_training_with_a_new_chunk_where_fresh(policy: Policy, dropped_at: int) -> None:
    fresh = [step in (0, dropped_at) for step in range(len(SEEN))]
    pilot = Pilot(policy)
    found = [pilot.wanted(seen[0], HOME, {}, fresh=begins) for seen, begins in zip(SEEN, fresh, strict=True)]
    np.testing.assert_allclose(found, in_training(policy, fresh), atol=1e-6)


def test_cube_velocity_uses_the_measured_time() -> None:
    estimator = StateEstimator(
        TASKS["push"], np.array([0.19, 0.0, 0.0]), find_cube("tercet.arm.robot.devices:seen_cube")
    )
    seen = {"cube.x": 0.2, "cube.y": 0.0, "cube.z": 0.015, "cube.turn": 0.0}
    estimator.readings(HOME, HOME, seen, elapsed=0.05)
    moved = estimator.readings(HOME, HOME, {**seen, "cube.y": 0.03}, elapsed=0.1)
    np.testing.assert_allclose(moved.cube_velocity[0], [0.0, 0.3, 0.0])


def test_half_speed_halves_all_movements_except_the_gripper(policy: Policy) -> None:
    whole, half = (Pilot(policy, speed).wanted(SEEN[0, 0], HOME, {}, fresh=True) for speed in (1.0, 0.5))
    torch.manual_seed(0)
    with torch.no_grad():
        action = policy.actions(policy.decide(torch.from_numpy(SEEN[0].astype(np.float32)), None))[0, :1].double()
    action = action.clamp(-1, 1).numpy()
    np.testing.assert_allclose(half, joints_for(HOME, action * [0.5, 0.5, 0.5, 0.5, 1.0]), atol=1e-6)
    assert half[-1] == whole[-1] and np.abs(half - whole)[:-1].max() > 1e-4


def test_action_between_two_positions_moves_from_one_to_the_other() -> None:
    home = start_joints([0.19, 0.02, 0.08], 0.03)
    action = np.array([[0.5, -0.3, 0.8, 0.4, -1.0]])
    np.testing.assert_allclose(action_between(home, joints_for(home, action)), action[0], atol=1e-9)
    assert (np.abs(action_between(home, start_joints([0.14, 0.1, 0.02], 0.0))) <= 1).all()


@pytest.mark.parametrize("opening", [0.0, 0.02, OPENING])
@pytest.mark.parametrize("grip", [-1.0, 1.0])
def test_the_action_of_the_expert_is_recovered_even_where_the_fingers_cannot_move(opening: float, grip: float) -> None:
    """The command of fingers that are closed stays 0, and the expert still says close, as in its demonstrations."""
    before = np.append(joints_for(np.array([0.0, 0.3, 0.6, 0.6, 0.0, 0.02]), np.zeros((1, 5)))[:5], opening)
    action = np.array([0.3, -0.4, 0.2, 0.5, grip])
    assert wanted_action(before, joints_for(before, action[None])) == pytest.approx(action, abs=1e-6)


def test_a_trigger_that_is_squeezed_closes_even_if_it_does_not_read_exactly_zero() -> None:
    before = start_joints([0.19, 0.02, 0.08], 0.0)
    for opening, grip in ((0.0007, -1.0), (-0.004, -1.0), (OPENING - 0.0007, 1.0), (0.0072, 0.6)):
        wanted = np.append(before[:-1], opening)
        assert wanted_action(before, wanted)[-1] == pytest.approx(grip)


def test_the_cube_is_seen_from_the_middle_between_the_jaws_of_the_robot() -> None:
    seen = {"cube.x": 0.19, "cube.y": 0.0, "cube.z": 0.015, "cube.turn": 0.0}
    wide, closed = (start_joints([0.19, 0.0, 0.1], opening) for opening in (0.03, 0.0))
    for name, expected in (("primitive", [0.0, 0.0]), ("so101", [0.0221, -0.0079])):
        estimator = StateEstimator(
            TASKS["lift"], np.zeros(3), find_cube("tercet.arm.robot.devices:seen_cube"), find_arm(name)
        )
        now = [estimator.readings(joints, joints, seen, elapsed=0.05) for joints in (wide, closed)]
        assert [float(one.grip[0, 1]) for one in now] == pytest.approx(expected, abs=1e-9)
