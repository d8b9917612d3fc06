"""The interface of policies, tested on every kind: sampling and learning agree, cloning, PPO, files."""

import copy
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from tests.arm.policies.language import tiny_model
from torch import Tensor

from tercet.arm.networks.critic import new_critic
from tercet.arm.networks.sizes import Sizes
from tercet.arm.play.agent import Agent, PolicyEpisodes, decisions_of, sample_episodes, sum_rewards
from tercet.arm.play.episodes import play
from tercet.arm.policies import kinds
from tercet.arm.policies.act import ActPolicy
from tercet.arm.policies.action_tokens import TokenPolicy
from tercet.arm.policies.chain import NUM_STEPS, ChainPolicy
from tercet.arm.policies.diffusion import DiffusionPolicy
from tercet.arm.policies.distributions import Normal, kl
from tercet.arm.policies.flow import FlowPolicy
from tercet.arm.policies.kinds import load_policy, new_policy
from tercet.arm.policies.language import LanguagePolicy
from tercet.arm.policies.policy import Policy
from tercet.arm.rollout import ArmActorCritic, assess, build
from tercet.arm.self_check import check
from tercet.config.arm import PolicyConfig, PpoConfig
from tercet.core.advantages import gae
from tercet.errors import FailedError, InputError
from tercet.train.optim import adamw, set_lr
from tercet.train.ppo.learner import Learner
from tercet.train.ppo.update import update

SIZES = Sizes(3, 2, sentences=("lift it",))
KINDS = {
    "gaussian": PolicyConfig(hidden_size=32, log_std=-1.0),
    "act": PolicyConfig(kind="act", hidden_size=32, num_layers=1, chunk_size=3, log_std=-1.0),
    "tokens": PolicyConfig(kind="tokens", hidden_size=64, num_layers=1, log_std=-4.0),
    "language": PolicyConfig(
        kind="language", language_model=tiny_model(), reading_layers=1, num_layers=1, lora_rank=8, log_std=-4.0
    ),
    "diffusion": PolicyConfig(kind="diffusion", hidden_size=64, chunk_size=3, log_std=-1.0),
    "flow": PolicyConfig(kind="flow", hidden_size=64, chunk_size=3, log_std=-1.0),
}


@pytest.fixture(params=list(KINDS))
def policy(request: pytest.FixtureRequest) -> Policy:
    return new_policy(SIZES, KINDS[request.param], seed=0)


def test_every_kind_of_the_config_is_in_the_table_and_tested_here() -> None:
    named = get_args(PolicyConfig.model_fields["kind"].annotation)
    with_pictures = ["conv", "smolvla", "openvla"]  # they have tests of their own
    assert list(named) == list(kinds.KINDS) == [*KINDS, *with_pictures]
    classes = {type(new_policy(SIZES, config, seed=0)) for config in KINDS.values()}
    assert len(classes) == len(KINDS)


class Target(VectorEnv):
    """Reward 1 minus the squared distance of the action from an observed target. Row i ends after i + 3 steps."""

    metadata = {"autoreset_mode": AutoresetMode.DISABLED}

    def __init__(self, num_envs: int, *, ends: bool) -> None:
        self.num_envs, self.ends = num_envs, ends
        self.single_observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (3,), np.float32)
        self.single_action_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:  # Any: Gymnasium's
        if seed is not None:
            self.targets = np.random.default_rng(seed).uniform(-0.6, 0.6, (self.num_envs, 2))
            self.count = np.zeros(self.num_envs)
        else:
            self.count[options["reset_mask"]] = 0
        return self.observe(), {}

    def step(self, actions: Any) -> Any:  # Any: Gymnasium's
        self.count += 1
        over = (self.count >= np.arange(self.num_envs) + 3) & self.ends
        reward = 1 - np.square(np.clip(actions, -1, 1) - self.targets).sum(1)
        return self.observe(), reward, over, np.zeros(self.num_envs, bool), {"success": reward > 0.9}

    def observe(self) -> Any:
        return np.concatenate([self.targets, self.count[:, None] / 6], 1).astype(np.float32)


def perturb(policy: Policy) -> Policy:
    """Change all weights of the policy at random, and return it."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return policy


def noise_of(policy: Policy, *shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, policy.noise_size, generator=torch.Generator().manual_seed(seed))


def play_policy(policy: Policy, *, ends: bool, num: int = 4, horizon: int = 8, seed: int = 0) -> PolicyEpisodes:
    env, noise = Target(num, ends=ends), noise_of(policy, horizon, num, seed=seed)
    return sample_episodes(env, policy, noise, num=num, horizon=horizon, seed=seed)


def test_learning_evaluates_the_decisions_of_sampling(policy: Policy) -> None:
    perturb(policy)
    critic = new_critic(policy.scaled, PolicyConfig(hidden_size=8), seed=0)
    played = play_policy(policy, ends=True)
    actor_critic = ArmActorCritic(policy, critic, "step")
    differences = check(played, played.episodes.dense, actor_critic, copy.deepcopy(policy), PpoConfig())
    assert max(differences.values()) < 1e-4
    # the ratio must depend neither on the batch nor on training mode, which PPO sets
    assessed = assess(played, actor_critic, policy)
    policy.train()
    rows = decisions_of(played)
    again = policy.distribution(rows.observations[:1], rows.decisions[:1]).logprobs()
    torch.testing.assert_close(again, assessed.logprobs[:1], rtol=1e-4, atol=1e-4)


def test_samples_follow_the_distribution(policy: Policy) -> None:
    """The mean ratio of the probabilities of another policy and of the policy, over its own samples, is 1."""
    torch.manual_seed(2)
    other = copy.deepcopy(policy)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(0.004 * torch.randn_like(parameter))
        observations = torch.zeros(6000, 3)
        decisions = policy.decide(observations, noise_of(policy, 6000))
        logprobs = policy.distribution(observations, decisions).logprobs()
        ratio = (other.distribution(observations, decisions).logprobs() - logprobs).exp()
    assert ratio.std() > 1e-3
    assert float(ratio.mean()) == pytest.approx(1.0, abs=5 * float(ratio.std()) / 6000**0.5)
    # the KL is the mean of the negative log ratio
    with torch.no_grad():
        exact = kl(policy.distribution(observations, decisions), other.distribution(observations, decisions))
    assert float(exact.mean()) == pytest.approx(-float(ratio.log().mean()), abs=5 * float(ratio.std()) / 6000**0.5)


@pytest.mark.parametrize("kind", ["diffusion", "flow"])
def test_the_log_probabilities_of_the_steps_add_up_to_that_of_the_chain(kind: str) -> None:
    policy = perturb(new_policy(SIZES, KINDS[kind], seed=0))
    observations = torch.randn(4, 2, 3)
    distribution = policy.distribution(observations, policy.decide(observations, noise_of(policy, 4, 2)))
    inner = distribution.inner_logprobs()
    assert inner is not None and inner.shape == (4, 2, NUM_STEPS)
    torch.testing.assert_close(inner.sum(-1), distribution.logprobs())
    with torch.no_grad():  # the first step depends on what it leads to, and not on what follows
        later = policy.decide(observations, noise_of(policy, 4, 2))
        later[..., 2 * 6 :] += 1.0
        other = policy.distribution(observations, later).inner_logprobs()
    assert other is not None
    torch.testing.assert_close(other[..., 0], inner[..., 0].detach())
    assert (other[..., 1] - inner[..., 1]).abs().min() > 1e-3


def test_the_self_check_finds_steps_in_another_order_in_training() -> None:
    class Swapped(DiffusionPolicy):
        """In a single row, as in training, the steps change places; their sum stays."""

        def distribution(self, observations: Tensor, decisions: Tensor, *pictures: Tensor) -> Normal:
            found = super().distribution(observations, decisions)
            if len(observations) > 1:
                return found
            chosen, mean, log_std = (
                torch.cat(column.split(self.width, -1)[::-1], -1)
                for column in (found.chosen, found.mean, found.log_std)
            )
            return Normal(chosen, mean, log_std, found.num_steps)

    policy = Swapped(SIZES, hidden_size=16, num_layers=1, chunk_size=3, log_std=-1.0)
    critic = new_critic(policy.scaled, PolicyConfig(hidden_size=8), seed=0)
    played = play_policy(policy, ends=True)
    check(played, played.episodes.dense, ArmActorCritic(policy, critic, "chain"), policy, PpoConfig())
    with pytest.raises(FailedError, match="ratio is off by"):
        check(played, played.episodes.dense, ArmActorCritic(policy, critic, "step"), policy, PpoConfig())


@pytest.mark.parametrize("kind", ["act", "diffusion", "flow"])
def test_each_joint_explores_with_its_own_deviation_in_every_action_of_a_chunk(kind: str) -> None:
    policy = new_policy(SIZES, KINDS[kind], seed=0)
    assert isinstance(policy, ActPolicy | ChainPolicy)
    with torch.no_grad():
        policy.log_std.copy_(torch.tensor([-3.0, 0.0]))
        done = policy.actions(policy.decide(torch.zeros(8000, 3), noise_of(policy, 8000)))
    torch.testing.assert_close(done.std(0), policy.log_std.detach().exp().expand(3, 2), rtol=0.05, atol=0)


def test_cloning_fits_a_few_demonstrations(policy: Policy) -> None:
    torch.manual_seed(0)
    observations, actions = torch.randn(6, 3), (torch.rand(6, policy.chunk, 2) - 0.5) * 1.6
    mask = torch.ones(6, policy.chunk, dtype=torch.bool)
    mask[0, 1:] = False  # the last step of a demonstration
    actions[0, 1:] = 99.0 * torch.ones(policy.chunk - 1, 2)
    policy.measure(observations, actions[:, 0])
    steps, lr = (600, 3e-3) if isinstance(policy, ActPolicy) else (400, 6e-3)  # an absolute error converges slowly
    steps = 150 if isinstance(policy, LanguagePolicy) else steps
    optimizer = adamw(policy, lr=lr)
    for step in range(steps):
        set_lr(optimizer, lr * (1 - step / steps))
        policy.imitation_loss(observations, actions, mask).backward()
        optimizer.step()
        optimizer.zero_grad()
    with torch.no_grad():
        done = policy.actions(policy.decide(observations, None))
    assert (done - actions)[mask].abs().max() < 0.15


def rewards_of_ppo(policy: Policy, clip_of: Literal["step", "chain"]) -> list[float]:
    """The mean reward of each rollout. The update is the one of language models; a decision takes a token's place."""
    critic = new_critic(policy.scaled, PolicyConfig(hidden_size=32), seed=0)
    actor_critic = ArmActorCritic(policy, critic, clip_of)
    shared = {"num_minibatches": 2, "epochs": 5, "micro_batch_size": 64, "gamma": 0.5, "kl_coef": 0.0}
    lr = 3e-3
    config = PpoConfig.model_validate({**shared, "lr": lr, "critic_lr": 1e-2, "num_envs": 32})
    learner = Learner.of(actor_critic, policy, critic, config)
    rewards: list[float] = []
    updates = 16 if isinstance(policy, TokenPolicy | FlowPolicy) else 10
    for index in range(updates):
        played = play_policy(policy, ends=False, num=32, horizon=6, seed=index)
        assessed = assess(played, actor_critic, policy)
        rollout = build(played, assessed, played.episodes.dense, gamma=config.gamma, kl_coef=0.0)
        rewards.append(float(played.episodes.dense.mean()))
        update(learner, rollout, config, generator=torch.Generator().manual_seed(index))
    return rewards


def test_ppo_raises_a_simple_return(policy: Policy) -> None:
    rewards = rewards_of_ppo(policy, "chain")
    assert sum(rewards[-3:]) / 3 > sum(rewards[:3]) / 3 + 0.1


@pytest.mark.parametrize("kind", ["diffusion", "flow"])
def test_ppo_raises_it_too_if_each_denoising_step_is_clipped(kind: str) -> None:
    rewards = rewards_of_ppo(new_policy(SIZES, KINDS[kind], seed=0), "step")
    assert sum(rewards[-3:]) / 3 > sum(rewards[:3]) / 3 + 0.1


def test_a_saved_policy_loads_unchanged(policy: Policy, tmp_path: Path) -> None:
    perturb(policy).measure(torch.randn(20, 3) * 5, torch.randn(20, 2))
    policy.save(tmp_path)
    loaded, observations, noise = load_policy(tmp_path, SIZES), torch.randn(4, 3), noise_of(policy, 4)
    assert type(loaded) is type(policy) and loaded.chunk == policy.chunk
    assert torch.equal(loaded.decide(observations, noise), policy.decide(observations, noise))
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    with pytest.raises(InputError, match="made for 3 numbers in each observation, but this arm has 9"):
        load_policy(tmp_path, Sizes(9, 2))
    with pytest.raises(InputError, match="made for 2 numbers in each action, but this arm has 5"):
        load_policy(tmp_path, Sizes(3, 5))
    for kind in ("unknown", ["act"], None):
        (tmp_path / "config.json").write_text(json.dumps({"kind": kind}))
        with pytest.raises(InputError, match="not a saved policy"):
            load_policy(tmp_path, SIZES)


def test_a_chunk_is_executed_whole_and_ends_with_its_episode() -> None:
    policy = perturb(new_policy(SIZES, KINDS["act"], seed=0))
    played = play_policy(policy, ends=True, num=2, horizon=8)
    assert played.starts.int().tolist() == [[1, 0, 0, 1, 0, 0, 1, 0], [1, 0, 0, 1, 1, 0, 0, 1]]
    rows = decisions_of(played)
    assert rows.lengths[rows.mask].tolist() == [3, 3, 2, 3, 1, 3, 1]
    assert rows.mask.int().tolist() == [[1, 1, 1, 0], [1, 1, 1, 1]]
    assert rows.terminated.int().tolist() == [[1, 1, 0, 0], [0, 1, 0, 1]]
    # actions of one row are not mixed with those of the other
    first = policy.actions(rows.decisions)
    torch.testing.assert_close(played.episodes.actions[1, 4:7], first[1, 2])
    torch.testing.assert_close(played.episodes.actions[0, 3:6], first[0, 1])
    torch.testing.assert_close(rows.next_observations[1, 2], played.episodes.next_observations[1, 6])


def test_the_reward_of_a_decision_is_the_discounted_sum_of_its_steps() -> None:
    rewards = torch.tensor([[1.0, 2.0, 4.0, 8.0, 16.0]])
    starts = torch.tensor([[True, False, False, True, False]])
    assert sum_rewards(rewards, starts, gamma=0.5).tolist() == [[1 + 1 + 1, 8 + 8]]


def test_returns_of_decisions_equal_those_of_single_steps() -> None:
    """With lam 1, returns are the discounted sums of the rewards of the steps, also if a chunk is cut short."""
    policy = new_policy(SIZES, KINDS["diffusion"], seed=0)
    critic = new_critic(policy.scaled, PolicyConfig(hidden_size=8), seed=0)
    played = play_policy(policy, ends=False, num=1, horizon=5)
    cut = torch.tensor([[False, False, False, False, True]])
    played = dataclasses.replace(played, episodes=dataclasses.replace(played.episodes, truncated=cut))
    assessed = assess(played, ArmActorCritic(policy, critic), policy)
    gamma = 0.9
    rollout = build(played, assessed, played.episodes.dense, gamma=gamma, kl_coef=0.0)
    names = ("rewards", "values", "next_values", "discounts", "terminated", "truncated", "mask")
    estimates = gae(*(getattr(rollout, name) for name in names), lam=1.0)
    rewards = played.episodes.dense[0]
    last = critic(played.episodes.next_observations[0, -1])
    expected = sum(gamma**j * rewards[j] for j in range(5)) + gamma**5 * last
    torch.testing.assert_close(estimates.returns[0, 0], expected)


def test_without_noise_a_decision_is_the_most_likely_one() -> None:
    policy = perturb(new_policy(SIZES, KINDS["tokens"], seed=0))
    observations = torch.randn(5, 3)
    with torch.no_grad():
        best = policy.decide(observations, None)
        logprob = policy.distribution(observations, best).logprobs()
        drawn = [policy.decide(observations, noise_of(policy, 5, seed=index)) for index in range(20)]
        draws = torch.stack([policy.distribution(observations, decisions).logprobs() for decisions in drawn])
    assert (draws.mean(0) < logprob).all()
    agent: Callable[..., Tensor] = Agent(policy)
    env = Target(5, ends=False)
    with torch.no_grad():
        one, two = (play(env, act, horizon=2, seed=3).actions for act in (agent, Agent(policy)))
    assert torch.equal(one, two)
