"""ACT with images: inputs, cloning, the rollout of PPO, files, recordings, a whole run, and a robot."""

import copy
import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.arm.conftest import drawable
from tests.arm.test_kill_and_resume import Moment, killed

from tercet.arm import bc
from tercet.arm.demonstrations import recordings
from tercet.arm.demonstrations.data import load_recording
from tercet.arm.networks.critic import new_critic
from tercet.arm.networks.sizes import Sizes
from tercet.arm.play.agent import PolicyEpisodes, decisions_of, sample_episodes
from tercet.arm.play.environments import EnvFactory, sizes_of
from tercet.arm.policies.act import ActPolicy, load_act
from tercet.arm.policies.kinds import new_policy
from tercet.arm.robot.pilot import Pilot
from tercet.arm.robot.simulated import SimulatedArm
from tercet.arm.rollout import ArmActorCritic, assess, build
from tercet.arm.self_check import check
from tercet.arm.sim.cameras import Camera, cameras_of
from tercet.arm.sim.env import ArmEnv
from tercet.config.arm import ArmConfig, PpoConfig
from tercet.config.load import load_arm_config, load_robot_config
from tercet.errors import InputError
from tercet.train import chance
from tercet.train.optim import adamw, clip_gradients, set_lr

WITH_CAMERAS = [
    "policy.kind=act",
    "policy.hidden_size=16",
    "policy.num_layers=1",
    "policy.num_heads=2",
    "policy.chunk_size=3",
    "policy.sees=itself",
    "policy.cameras=[front,wrist]",
    "policy.image_size=[32,32]",
]


@pytest.fixture
def config(small: list[str]) -> ArmConfig:
    return load_arm_config("lift", [*small, *WITH_CAMERAS])


@pytest.fixture
def env() -> Iterator[ArmEnv]:
    yield from drawable("lift", 3, horizon=7, num_threads=1)


@pytest.fixture
def policy(config: ArmConfig, env: ArmEnv) -> ActPolicy:
    """A policy whose actions depend on all of its inputs."""
    policy = new_policy(sizes_of(env), config.policy, seed=0)
    assert isinstance(policy, ActPolicy)
    images = [torch.from_numpy(image) for image in env.pictures(policy.cameras, np.ones(3, bool))]
    policy.measure(torch.randn(20, 23), torch.randn(20, 5), *images)
    torch.nn.init.normal_(policy.model.action_head.weight, std=0.3)
    return policy


def pictures(*shape: int, seed: int = 0) -> list[torch.Tensor]:
    chance = torch.Generator().manual_seed(seed)
    return [torch.randint(0, 256, (*shape, 32, 32, 3), generator=chance, dtype=torch.uint8) for _ in range(2)]


def test_the_policy_uses_its_own_state_and_images_but_neither_cube_nor_goal(policy: ActPolicy, env: ArmEnv) -> None:
    observations, images = torch.randn(2, 23), pictures(2)
    hidden = torch.tensor(["cube" in name or "goal" in name for name in env.layout.names])
    assert int(hidden.sum()) == 14
    with torch.no_grad():
        before = policy.decide(observations, None, *images)
        assert torch.equal(policy.decide(torch.where(hidden, 5.0, observations), None, *images), before)
        assert (policy.decide(torch.where(hidden, observations, 5.0), None, *images) - before).abs().max() > 1e-3
        for camera in range(2):
            other = [*images]
            other[camera] = pictures(2, seed=1)[camera]
            assert (policy.decide(observations, None, *other) - before).abs().max() > 1e-3


def test_each_decision_has_the_images_of_its_step() -> None:
    """Two rows of five steps. Images are numbered in the order in which they were taken."""
    starts = torch.tensor([[True, False, True, False, True], [True, True, False, False, False]])
    env = ArmEnv("reach", 2, horizon=5, num_threads=1)
    blind = new_policy(sizes_of(env), load_arm_config("reach", []).policy, seed=0)
    episodes = sample_episodes(env, blind, None, num=env.num_envs, horizon=5, seed=0).episodes
    # step 0: rows 0 and 1; step 1: row 1; step 2: row 0; step 4: row 0
    images = torch.arange(5, dtype=torch.uint8)[:, None, None, None].expand(5, 2, 2, 3)
    found = decisions_of(PolicyEpisodes(episodes, starts, torch.zeros(2, 5, 1), (images,)))
    assert found.mask.tolist() == [[True, True, True], [True, True, False]]
    assert found.pictures[0][..., 0, 0, 0][found.mask].tolist() == [0, 3, 4, 1, 2]


def test_learning_uses_the_images_of_sampling(policy: ActPolicy, env: ArmEnv) -> None:
    """The self-check of PPO on a real rollout gives ratio 1 for each row. Images of another row would not."""
    noise = torch.randn(7, 3, policy.noise_size)
    played = sample_episodes(env, policy, noise, num=env.num_envs, horizon=7, seed=1)
    assert [tuple(images.shape) for images in played.pictures] == [(9, 32, 32, 3)] * 2
    assert played.pictures[0].dtype == torch.uint8
    actor_critic = ArmActorCritic(policy, new_critic(policy.scaled, load_arm_config("lift", []).policy, seed=0))
    differences = check(played, played.episodes.dense, actor_critic, copy.deepcopy(policy), PpoConfig())
    assert max(differences.values()) < 1e-3
    assessed = assess(played, actor_critic, policy)
    mixed = [one.flip(0) for one in assessed.decisions.pictures]
    other = policy.distribution(assessed.decisions.observations, assessed.decisions.decisions, *mixed).logprobs()
    assert (other - assessed.logprobs).abs().max() > 0.1
    rollout = build(played, assessed, played.episodes.dense, gamma=0.9, kl_coef=0.0)
    assert [name for name in rollout.inputs if rollout.inputs[name].dtype == torch.uint8] == [
        "pictures.0",
        "pictures.1",
    ]


@pytest.mark.slow
def test_cloning_learns_from_images_alone(config: ArmConfig) -> None:
    one_camera = config.policy.model_copy(update={"cameras": ["front"], "chunk_size": 1, "hidden_size": 32})
    policy = new_policy(Sizes(2, 1, robot=(True, False)), one_camera, seed=0)
    assert isinstance(policy, ActPolicy)
    torch.manual_seed(0)
    observations, position = torch.zeros(16, 2), torch.randint(4, 28, (16,))
    images = torch.full((16, 32, 32, 3), 200, dtype=torch.uint8)
    for row, column in enumerate(position):
        images[row, 12:20, column - 4 : column + 4] = 20
    actions = ((position - 16) / 16)[:, None, None]
    policy.measure(observations, actions[:, 0], images)
    optimizer = adamw(policy, lr=1e-3)
    for step in range(40):
        set_lr(optimizer, 1e-3 * (1 - step / 40))
        policy.imitation_loss(observations, actions, torch.ones(16, 1, dtype=torch.bool), images).backward()
        clip_gradients(policy.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    with torch.no_grad():
        error = (policy.decide(observations, None, images) - actions[:, 0]).abs().mean()
    assert error < 0.4 * actions.abs().mean()


def test_a_saved_policy_loads_with_cameras_scales_and_hidden_entries(policy: ActPolicy, tmp_path: Path) -> None:
    policy.save(tmp_path)
    loaded, observations, images = load_act(tmp_path, policy.sizes), torch.randn(4, 23), pictures(4)
    assert loaded.cameras == (Camera("front", 32, 32), Camera("wrist", 32, 32))
    assert torch.equal(loaded.decide(observations, None, *images), policy.decide(observations, None, *images))
    assert torch.equal(loaded.scaled.mean, policy.scaled.mean)  # of hidden entries too, which the critic uses


def test_each_demonstrated_step_has_its_own_image(config: ArmConfig, env: ArmEnv) -> None:
    with EnvFactory.of(config).open(2) as two:
        shown = bc.load_demonstrations(config, two)
        assert isinstance(two, ArmEnv)
        observations, _ = two.reset(seed=chance.integer(config.seed, "demonstrations"))
        first = two.pictures(cameras_of(config.policy), np.ones(2, bool))
    np.testing.assert_array_equal(shown.observations[:, 0], observations)
    np.testing.assert_array_equal(shown.pictures[1][:, 0], first[1])
    assert (shown.pictures[0][:, 1:] != shown.pictures[0][:, :-1]).flatten(2).any(2).all()
    shorter = dataclasses.replace(shown, mask=torch.arange(12) < torch.tensor([[5], [12]]))
    part = bc.rows_of(shorter, 3).micro_batches([6, 0], 2)[0]
    assert torch.equal(part.pictures[0], torch.stack([shown.pictures[0][1, 1], shown.pictures[0][0, 0]]))
    assert torch.equal(part.observations, torch.stack([shown.observations[1, 1], shown.observations[0, 0]]))


def test_images_of_a_recording_are_those_of_the_cameras(config: ArmConfig, env: ArmEnv, tmp_path: Path) -> None:
    pytest.importorskip("av")
    with EnvFactory.of(config).open(2) as two:
        shown = bc.load_demonstrations(config, two)
    lengths = shown.mask.sum(1).tolist()
    names = [camera.name for camera in cameras_of(config.policy)]
    columns = [[part[k][: lengths[k]].numpy() for k in range(2)] for part in (shown.observations, shown.actions)]
    images = {
        name: [whole[k][: lengths[k]].numpy() for k in range(2)]
        for name, whole in zip(names, shown.pictures, strict=True)
    }
    recordings.save(tmp_path / "demos", *columns, env="lift", pictures=images)
    loaded = load_recording(tmp_path / "demos", sizes_of(env), config.bc, env="lift", cameras=cameras_of(config.policy))
    for ours, theirs in zip(shown.pictures, loaded.pictures, strict=True):
        assert ours.shape == theirs.shape and theirs.dtype == torch.uint8
        # video compression changes images less than a step does
        error = (ours.float() - theirs.float()).abs().mean((2, 3, 4))
        step_error = (ours[:, 1:].float() - theirs[:, :-1].float()).abs().mean((2, 3, 4))
        assert error.mean() < 6 and (error[:, 1:] < step_error).float().mean() > 0.9
    small = (Camera("front", 40, 48),)
    fitted = load_recording(tmp_path / "demos", sizes_of(env), config.bc, env="lift", cameras=small).pictures[0]
    assert fitted.shape[2:] == (40, 48, 3)
    with pytest.raises(InputError, match=r"names top, but the recording has observation\.images\.front"):
        load_recording(tmp_path / "demos", sizes_of(env), config.bc, env="lift", cameras=(Camera("top", 32, 32),))


@pytest.mark.slow
def test_a_run_that_is_killed_and_resumed_gives_the_same_bits(small: list[str], env: ArmEnv, tmp_path: Path) -> None:
    more = [
        "policy.cameras=[wrist]",
        "bc.epochs=1",
        "bc.checkpoint_every=2",
        "ppo.num_updates=2",
        "ppo.eval_every=2",
        "reward.epochs=1",
    ]
    chain: list[Moment] = [("row", "bc", 1), ("row", "ppo", 2)]
    assert killed(tmp_path, "lift", [chain], [*small, *WITH_CAMERAS, *more]) == 2


def test_a_pilot_uses_the_cameras_of_the_robot(policy: ActPolicy, env: ArmEnv) -> None:
    robot = SimulatedArm("lift", load_robot_config("simulated", []).calibration, cameras={"front": "front"})
    robot.connect()
    sent, observation = robot.env.joints()[0], np.zeros(23)
    pilot = Pilot(policy)
    with pytest.raises(InputError, match="the policy needs images of the camera wrist, but the robot has: front"):
        pilot.wanted(observation, sent, robot.get_observation(), fresh=True)
    robot.disconnect()
    robot = SimulatedArm("lift", robot.calibration, cameras={"front": "front", "wrist": "wrist"})
    robot.connect()
    readings = robot.get_observation()
    assert readings["wrist"].shape == robot.observation_features["wrist"] == (240, 320, 3)
    one = pilot.wanted(observation, sent, readings, fresh=True)
    other = pilot.wanted(observation, sent, {**readings, "front": readings["wrist"]}, fresh=True)
    assert np.abs(one - other).max() > 1e-4
    robot.disconnect()
    with pytest.raises(InputError, match="the simulated arm has no back; it has front, top, wrist"):
        SimulatedArm("lift", robot.calibration, cameras={"front": "back"})
