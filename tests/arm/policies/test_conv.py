"""The policy `conv`: it sees with its cameras, its encoders learn in cloning and are frozen in PPO."""

import copy
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.arm.conftest import drawable

from tercet.arm.bc import load_demonstrations, rows_of
from tercet.arm.networks.critic import new_critic
from tercet.arm.networks.eye import NUM_FEATURES
from tercet.arm.networks.sizes import Sizes
from tercet.arm.play.agent import decisions_of, sample_episodes
from tercet.arm.play.environments import sizes_of
from tercet.arm.policies.conv import MAX_SHIFT, ConvPolicy, load_conv, shifted
from tercet.arm.policies.kinds import load_policy, new_policy
from tercet.arm.policies.policy import Policy
from tercet.arm.robot.pilot import Pilot
from tercet.arm.robot.simulated import SimulatedArm
from tercet.arm.rollout import ArmActorCritic, assess, build
from tercet.arm.self_check import check
from tercet.arm.sim.cameras import Camera
from tercet.arm.sim.env import ArmEnv
from tercet.config.arm import ArmConfig, PolicyConfig, PpoConfig
from tercet.config.load import load_arm_config, load_robot_config
from tercet.errors import InputError
from tercet.train.optim import adamw
from tercet.train.ppo.learner import Learner
from tercet.train.ppo.update import update

SIZES = Sizes(4, 2, robot=(True, True, False, False))
EYES = PolicyConfig(
    kind="conv", cameras=["front", "wrist"], image_size=[32, 48], sees="itself", hidden_size=16, chunk_size=2
)


@pytest.fixture
def policy() -> Policy:
    return new_policy(SIZES, EYES, seed=0)


@pytest.fixture
def env() -> Iterator[ArmEnv]:
    yield from drawable("lift", 3, horizon=5)


@pytest.fixture
def config(small: list[str]) -> ArmConfig:
    overrides = ["policy.kind=conv", "policy.cameras=[front,wrist]", "policy.image_size=[32,32]", "policy.sees=itself"]
    return load_arm_config("lift", [*small, *overrides, "policy.chunk_size=2", "horizon=5", "bc.num_demonstrations=3"])


def pictures(num: int, seed: int = 0) -> list[torch.Tensor]:
    chance = torch.Generator().manual_seed(seed)
    return [torch.randint(0, 256, (num, 32, 48, 3), generator=chance, dtype=torch.uint8) for _ in range(2)]


def perturbed(policy: Policy) -> Policy:
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return policy


def test_it_sees_its_own_state_and_each_picture_and_nothing_that_is_hidden(policy: Policy) -> None:
    perturbed(policy)
    observations, seen = torch.randn(3, 4), pictures(3)
    first = policy.decide(observations, None, *policy.look(*seen))
    hidden = observations + torch.tensor([0.0, 0.0, 1.0, 1.0])
    assert torch.equal(policy.decide(hidden, None, *policy.look(*seen)), first)
    for entry in range(2):
        moved = observations.clone()
        moved[:, entry] += 1
        assert (policy.decide(moved, None, *policy.look(*seen)) - first).abs().max() > 1e-4
    for camera in range(2):
        other = list(seen)
        other[camera] = pictures(3, seed=1)[camera]
        assert (policy.decide(observations, None, *policy.look(*other)) - first).abs().max() > 1e-5


def test_cloning_finds_what_is_only_in_the_pictures(policy: Policy) -> None:
    """The action is the place of a square in the first camera, which changes with every row."""
    torch.manual_seed(0)
    chance = np.random.default_rng(0)
    places = torch.from_numpy(chance.integers(2, 22, (48, 2)))
    seen = torch.full((48, 32, 48, 3), 128, dtype=torch.uint8)
    for row, (x, y) in enumerate(places.tolist()):
        seen[row, y : y + 6, 2 * x : 2 * x + 6] = torch.tensor([20, 60, 250], dtype=torch.uint8)
    actions = ((places - 12) / 12).float()[:, None].expand(-1, 2, -1)
    rows = (torch.zeros(48, 4), actions, torch.ones(48, 2, dtype=torch.bool), seen, torch.zeros_like(seen))
    optimizer, losses = adamw(policy, lr=6e-3), []
    for _ in range(50):
        loss = policy.imitation_loss(*rows)
        (loss / 48).backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item() / 48)
    with torch.no_grad():
        done = policy.actions(policy.decide(rows[0], None, *policy.look(*rows[3:])))
    assert losses[0] > 0.2
    assert float((done - actions).square().mean()) < 0.05


def test_encoders_learn_what_is_hidden_if_the_demonstrations_know_it(policy: Policy) -> None:
    assert isinstance(policy, ConvPolicy)
    rows = (torch.randn(4, 4), torch.zeros(4, 2, 2), torch.ones(4, 2, dtype=torch.bool), *pictures(4))
    torch.manual_seed(0)
    one = policy.imitation_loss(*rows)
    torch.manual_seed(0)
    other = policy.imitation_loss(rows[0] + torch.tensor([0.0, 0.0, 0.0, 3.0]), *rows[1:])
    assert other > one + 1
    everything = new_policy(SIZES, EYES.model_copy(update={"sees": "everything"}), seed=0)
    assert isinstance(everything, ConvPolicy) and not everything.sees_itself and not hasattr(everything, "hidden")
    assert everything.imitation_loss(*rows).isfinite()


def test_actions_after_an_end_do_not_count(policy: Policy) -> None:
    mask = torch.tensor([[True, False]])
    rows = (torch.zeros(1, 4), torch.zeros(1, 2, 2), mask, *pictures(1))
    after = torch.tensor([[[0.0, 0.0], [99.0, 99.0]]])
    losses = []
    for actions in (rows[1], after):
        torch.manual_seed(0)
        losses.append(policy.imitation_loss(rows[0], actions, *rows[2:]).item())
    assert losses[0] == losses[1]


def test_a_shift_moves_the_picture_and_repeats_its_border() -> None:
    torch.manual_seed(0)
    column = torch.arange(10, dtype=torch.uint8)[None, None, :, None].expand(200, 6, 10, 3)
    moved = shifted(column.contiguous())
    assert moved.shape == column.shape and moved.dtype == torch.uint8
    shifts = moved[:, 0, 5, 0].int() - 5
    assert set(shifts.tolist()) == set(range(-MAX_SHIFT, MAX_SHIFT + 1))
    for row, shift in enumerate(shifts.tolist()):
        assert moved[row, 3, :, 1].tolist() == [min(max(x + shift, 0), 9) for x in range(10)]


def test_a_rollout_holds_features_and_learning_evaluates_the_decisions_of_sampling(
    config: ArmConfig, env: ArmEnv
) -> None:
    policy = perturbed(new_policy(sizes_of(env), config.policy, seed=0))
    critic = new_critic(policy.scaled, config.policy, seed=0)
    noise = torch.randn(5, 3, policy.noise_size, generator=torch.Generator().manual_seed(0))
    played = sample_episodes(env, policy, noise, num=3, horizon=5, seed=0)
    assert [tuple(one.shape) for one in played.pictures] == [(9, 2 * NUM_FEATURES)]  # three decisions in each episode
    actor_critic, reference = ArmActorCritic(policy, critic), copy.deepcopy(policy)
    assert max(check(played, played.episodes.dense, actor_critic, reference, PpoConfig()).values()) < 1e-4
    # and each row has its own features
    decisions = decisions_of(played)
    mixed = [one.flip(0) for one in decisions.pictures]
    own = policy.distribution(decisions.observations, decisions.decisions, *decisions.pictures).logprobs()
    assert (
        policy.distribution(decisions.observations, decisions.decisions, *mixed).logprobs() - own
    ).abs().max() > 0.01


def test_ppo_trains_neither_the_encoders_nor_what_only_cloning_needs(config: ArmConfig, env: ArmEnv) -> None:
    policy = new_policy(sizes_of(env), config.policy, seed=0)
    policy.explore(-1.0)
    before = {name: value.clone() for name, value in policy.state_dict().items()}
    critic = new_critic(policy.scaled, config.policy, seed=0)
    played = sample_episodes(env, policy, torch.randn(5, 3, policy.noise_size), num=3, horizon=5, seed=0)
    actor_critic = ArmActorCritic(policy, critic)
    rollout = build(played, assess(played, actor_critic, policy), played.episodes.dense, gamma=0.9, kl_coef=0.0)
    settings = PpoConfig.model_validate({"lr": 1e-2, "num_minibatches": 1, "micro_batch_size": 64, "num_envs": 3})
    learner = Learner.of(actor_critic, policy, critic, settings)
    update(learner, rollout, settings, generator=torch.Generator().manual_seed(0))
    after = policy.state_dict()
    changed = {name.split(".")[0] for name, value in before.items() if not torch.equal(after[name], value)}
    assert changed == {"net", "log_std"}


def test_a_saved_policy_loads_unchanged(policy: Policy, tmp_path: Path) -> None:
    perturbed(policy).measure(torch.randn(20, 4) * 5, torch.randn(20, 2))
    policy.save(tmp_path)
    loaded, observations = load_policy(tmp_path, SIZES), torch.randn(3, 4)
    assert loaded.cameras == (Camera("front", 32, 48), Camera("wrist", 32, 48))
    assert loaded.sees_itself and loaded.chunk == 2 and not any(one.requires_grad for one in loaded.parameters())
    decisions = [one.decide(observations, None, *one.look(*pictures(3))) for one in (policy, loaded)]
    assert torch.equal(*decisions)
    with pytest.raises(InputError, match="made for 4 numbers in each observation, but this arm has 9"):
        load_policy(tmp_path, Sizes(9, 2))
    config = json.loads((tmp_path / "config.json").read_text())
    for cameras in (None, "front", [{"name": "front"}]):
        (tmp_path / "config.json").write_text(json.dumps(config | {"cameras": cameras}))
        with pytest.raises(InputError, match="cameras must hold name, height and width"):
            load_conv(tmp_path, SIZES)


def test_a_config_that_could_not_learn_to_see_is_refused() -> None:
    eyes = ["policy.kind=conv", "policy.cameras=[front]"]
    for given, said in (
        (["policy.kind=conv"], "kind=conv needs cameras"),
        ([*eyes, "bc.demonstrations=none"], r"learns to see in behaviour cloning only; .* a clone as bc.policy"),
    ):
        with pytest.raises(InputError, match=said):
            load_arm_config("lift", given)
    load_arm_config("lift", [*eyes, "bc.demonstrations=none", "bc.policy=clone"])  # which has learned to see
    with pytest.raises(InputError, match=r"only the tasks of the built-in arm say .* set policy.sees=everything"):
        new_policy(Sizes(3, 2), EYES, seed=0)


def test_demonstrations_show_the_pictures_of_both_cameras(config: ArmConfig, env: ArmEnv) -> None:
    rows = rows_of(load_demonstrations(config, env), 2)
    assert [tuple(one.shape) for one in rows.pictures] == [(15, 32, 32, 3)] * 2


def test_a_pilot_sees_with_the_cameras_of_the_robot(config: ArmConfig, env: ArmEnv) -> None:
    policy = perturbed(new_policy(sizes_of(env), config.policy, seed=0))
    cameras = {"front": "front", "wrist": "wrist"}
    robot = SimulatedArm("lift", load_robot_config("simulated", []).calibration, cameras=cameras)
    robot.connect()
    sent, readings = robot.env.joints()[0], robot.get_observation()
    one, other = (
        Pilot(policy).wanted(np.zeros(23), sent, {**readings, "wrist": picture}, fresh=True)
        for picture in (readings["wrist"], readings["front"])
    )
    robot.disconnect()
    assert np.abs(one - other).max() > 1e-4
