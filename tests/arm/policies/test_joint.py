"""An ACT over joints acts as its joints say, in the units of the robot, and is learned, saved and explored as such."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tercet.arm.networks.act import ActShape
from tercet.arm.networks.sizes import Sizes
from tercet.arm.play.environments import sizes_of
from tercet.arm.policies import act_files
from tercet.arm.policies.act import ActPolicy
from tercet.arm.policies.joint import FILE, JointPolicy, JointUnits, load_any_act
from tercet.arm.robot.calibration import to_joints, to_values
from tercet.arm.robot.pilot import action_between
from tercet.arm.sim import kinematics
from tercet.arm.sim.env import ArmEnv
from tercet.arm.sim.workspace import STEPS
from tercet.config.load import load_robot_config
from tercet.errors import InputError

SO101 = load_robot_config("so101", []).calibration
UNITS = JointUnits.of(SO101)
SHAPE = ActShape(
    state_sizes={"robot": 6},
    action_size=6,
    chunk_size=4,
    dim_model=8,
    n_heads=2,
    dim_feedforward=16,
    n_encoder_layers=1,
    n_decoder_layers=1,
    n_vae_encoder_layers=1,
    latent_dim=4,
)


def lerobots(*, chunk: int = 3, shape: ActShape = SHAPE) -> ActPolicy:
    """An ACT as LeRobot trains it on an SO-101: joints in degrees, of a hand somewhere in the workspace."""
    torch.manual_seed(0)
    act = ActPolicy(shape, chunk=chunk, kl_weight=10.0, log_std=0.0)
    hands = np.random.default_rng(0).uniform([0.16, -0.1, 0.03, -1, 0], [0.22, 0.1, 0.12, 1, 0.03], (50, 5))
    joints = torch.from_numpy(UNITS.values(hands)).float()
    images = [torch.zeros(2, one.height, one.width, 3, dtype=torch.uint8) for one in shape.cameras]
    act.measure(joints, joints, *images)
    return act


@pytest.fixture
def env() -> ArmEnv:
    return ArmEnv("lift", 3, seed=1, num_threads=1)


@pytest.fixture
def policy(env: ArmEnv) -> JointPolicy:
    return JointPolicy(lerobots(), UNITS, sizes_of(env))


def observe(env: ArmEnv) -> Tensor:
    return torch.from_numpy(env.layout.build(env.readings()))


def test_units_are_those_of_deploy() -> None:
    hand = np.array([[0.2, 0.05, 0.06, 0.4, 0.012]])
    joints = np.append(kinematics.inverse(hand[:, :3], hand[:, 3])[0], hand[0, 4])
    np.testing.assert_allclose(UNITS.values(hand)[0], list(to_values(joints, SO101).values()), atol=1e-9)
    np.testing.assert_allclose(UNITS.hands(UNITS.values(hand)), hand, atol=1e-9)


def test_the_state_is_what_the_robot_measures(policy: JointPolicy, env: ArmEnv) -> None:
    for _ in range(4):
        env.step(np.random.default_rng(0).uniform(-1, 1, (3, 5)))
    measured = [list(to_values(row, SO101).values()) for row in env.joints()]
    # the arm hangs behind its command by half a degree while it moves
    np.testing.assert_allclose(policy.states(observe(env)).numpy(), measured, atol=0.6)
    flat = policy.states(observe(env).view(3, 1, -1))
    assert flat.shape == (3, 1, 6)


def test_moves_follow_the_commanded_joints_one_after_the_other(policy: JointPolicy) -> None:
    start = np.array([0.2, 0.0, 0.08, 0.0, 0.03])
    near, far = start + np.array([0.01, 0.005, -0.01, 0.1, -0.012]), start + np.array([0.03, 0.0, -0.05, 0.0, -0.03])
    joints = UNITS.values(np.stack([near, far, far]))
    decision = torch.from_numpy(np.concatenate([joints.ravel(), start])).float()[None]
    moves = policy.actions(decision)[0].numpy()
    np.testing.assert_allclose(moves[0], [0.5, 0.25, -0.5, 1 / 3, -1.0], atol=1e-3)
    np.testing.assert_allclose(moves[1], [1.0, -0.25, -1.0, -1 / 3, -1.0], atol=1e-3)  # from where the first one led
    np.testing.assert_allclose(start + STEPS * moves.sum(0), [0.23, 0, 0.04, 0, 0], atol=0.011)
    before = to_joints(dict(zip(to_values(np.zeros(6), SO101), UNITS.values(start[None])[0], strict=True)), SO101)
    after = to_joints(dict(zip(to_values(np.zeros(6), SO101), joints[0], strict=True)), SO101)
    np.testing.assert_allclose(moves[0], action_between(before, after), atol=1e-3)  # as a recording is converted


def test_it_is_cloned_from_moves(policy: JointPolicy, env: ArmEnv) -> None:
    observations = observe(env)
    actions = torch.zeros(3, 3, 5)
    actions[..., 0], actions[..., 2], actions[..., 4] = 0.4, -0.6, -1.0
    mask = torch.ones(3, 3, dtype=torch.bool)
    optimizer = torch.optim.Adam(policy.parameters(), lr=1e-2)
    torch.manual_seed(0)
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        loss = policy.imitation_loss(observations, actions, mask)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    done = policy.actions(policy.decide(observations, None))
    assert losses[-1] < 0.3 * losses[0]
    np.testing.assert_allclose(done.mean((0, 1)).detach().numpy(), [0.4, 0.0, -0.6, 0.0, -1.0], atol=0.25)


def test_learning_evaluates_the_joints_of_sampling(policy: JointPolicy, env: ArmEnv) -> None:
    policy.explore(-1.0)
    observations, noise = observe(env), torch.randn(3, policy.noise_size)
    decisions = policy.decide(observations, noise)
    distribution = policy.distribution(observations, decisions)
    density = torch.distributions.Normal(distribution.mean, distribution.log_std.exp())
    expected = density.log_prob(decisions[:, :18]).sum(-1)
    torch.testing.assert_close(distribution.logprobs(), expected, atol=1e-3, rtol=1e-4)
    standardised = (decisions[:, :18] - distribution.mean) / distribution.log_std.exp()
    torch.testing.assert_close(standardised, noise, atol=1e-3, rtol=1e-3)


def test_exploration_moves_the_hand_as_far_as_that_of_moves(policy: JointPolicy, env: ArmEnv) -> None:
    policy.explore(float(np.log(0.2)))
    observations = observe(env)[:1].expand(2000, -1)
    torch.manual_seed(0)
    mean = UNITS.hands(policy.decide(observations[:1], None)[:, :6].double().detach().numpy())
    drawn = policy.decide(observations, torch.randn(2000, policy.noise_size))[:, :6]
    moved = (UNITS.hands(drawn.double().detach().numpy()) - mean).std(0) / STEPS
    assert (moved > 0.05).all() and (moved < 0.8).all(), moved


def test_a_saved_policy_is_an_act_of_lerobot_and_loads_unchanged(
    policy: JointPolicy, env: ArmEnv, tmp_path: Path
) -> None:
    policy.explore(-1.5)
    policy.measure(observe(env), torch.zeros(3, 5))
    policy.save(tmp_path)
    files = act_files.read(tmp_path)
    assert files.shape.action_size == 6 and files.shape.state_sizes == {"robot": 6}
    loaded = load_any_act(tmp_path, sizes_of(env))
    assert isinstance(loaded, JointPolicy) and loaded.sees_itself
    one, other = (kind.decide(observe(env), None) for kind in (loaded, policy))
    torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(loaded.inner.log_std, policy.inner.log_std)
    torch.testing.assert_close(loaded.scaled.std, policy.scaled.std)
    with pytest.raises(InputError, match="made for 23 numbers in each observation"):
        load_any_act(tmp_path, Sizes(12, 5))


def test_a_checkpoint_without_units_is_refused_where_no_robot_is_named(tmp_path: Path, env: ArmEnv) -> None:
    lerobots().save(tmp_path)
    assert not (tmp_path / FILE).exists()
    with pytest.raises(InputError, match=r"its actions are the joints of a robot, .* bc.policy="):
        load_any_act(tmp_path, sizes_of(env))


def test_an_observation_of_another_order_is_refused(env: ArmEnv) -> None:
    sizes = sizes_of(env)
    for names in ((), (sizes.names[1], sizes.names[0], *sizes.names[2:])):
        with pytest.raises(InputError, match="needs an observation that begins with what the arm measures on itself"):
            JointPolicy(lerobots(), UNITS, Sizes(sizes.observation, 5, sizes.robot, names))
