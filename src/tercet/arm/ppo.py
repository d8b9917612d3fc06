"""Step 3, improve: PPO with actor, critic, reference and reward over the arm's actions."""

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from gymnasium.vector import VectorEnv
from jaxtyping import Float
from torch import Tensor

from tercet.arm.demonstrations.data import NONE
from tercet.arm.play.agent import PolicyEpisodes, sample_episodes
from tercet.arm.play.environments import opened
from tercet.arm.play.footage import Footage
from tercet.arm.policies.roles import Policy, load_reward_model, new_critic
from tercet.arm.preferences.pairs import load_pairs
from tercet.arm.preferences.questions import asks_a_person
from tercet.arm.preferences.rounds import Rounds
from tercet.arm.rollout import ArmActorCritic, assess, build, describe
from tercet.arm.scoring import OWN, scorer
from tercet.arm.self_check import check, scale_warning
from tercet.arm.stages import say_unseen, start_policy
from tercet.config.arm import ArmConfig
from tercet.errors import InputError
from tercet.runs.folder import RunFolder
from tercet.runs.progress import say
from tercet.train import chance
from tercet.train.ppo import Collected, Learner, Validation, train, validates_after

TIE_BREAK = 1e-3  # of two policies that succeed as often, the one that spends more of its time in success is better
SHOWN = ["ppo/score", "ppo/success", "ppo/kl", "ppo/explained_variance", "ppo/clip_fraction"]


def run(folder: RunFolder, config: ArmConfig) -> None:
    """Improve the policy by what its steps earn; the best actor is kept in DIR/ppo/model, the critic beside it."""
    policy = start_policy(folder, config)
    if config.bc.demonstrations == NONE:
        say_unseen(policy, "ppo", "on aimless movements")
    critic = new_critic(policy.scaled, config.policy, seed=config.seed)
    loop = config.ppo.model_copy(update={"checkpoint_every": _checkpoint_every(config)})
    with opened(config, config.ppo.num_envs) as env, opened(config, config.ppo.num_eval_states) as trial:
        rounds = _rounds(folder, config, policy) if OWN in config.ppo.reward else None
        collect = Collect(env, ArmActorCritic(policy, critic), frozen(policy), rounds, config)
        checked = collect.self_check()
        with folder.step("ppo", total=config.ppo.num_updates, num_before=1, shown=SHOWN) as step:
            best = train(
                step,
                Learner.of(collect.actor_critic, policy, critic, config.ppo),
                collect=collect,
                validate=lambda: validate(trial, collect, config),
                carry={},
                config=loop,
                samples_every=config.ppo.num_updates,
                seed=config.seed,
            )
            step.save_folder("model", policy.save)
            step.save_folder("critic", critic.save)
            results = {"best_checkpoint": vars(best), "self_check": checked, "env_steps": _env_steps(folder, config)}
            step.finish(results | ({"rounds": rounds.asked()} if rounds else {}))


@dataclass(frozen=True)
class Collect:
    """Rollouts, each from fresh starts: starts and noise follow from the rollout's index alone."""

    env: VectorEnv
    actor_critic: ArmActorCritic
    reference: Policy
    rounds: Rounds | None
    config: ArmConfig

    def __call__(self, index: int, carry: Mapping[str, float]) -> Collected:
        """An episode in each environment, and what each of its steps cost and earned."""
        name = "rollout"
        played = self._sampled(name, index)
        footage = Footage(self.env, [played.episodes], [self._seed(name, index)], range(self.config.ppo.num_envs))
        model = self.rounds.at(index, footage) if self.rounds else None
        pay = scorer(self.config.ppo.reward, model)(played.episodes)
        earned = pay.to_learn_from(self.config.ppo.gamma)
        seen = assess(played, self.actor_critic, self.reference)
        kl_coef = self.kl_coef(index)
        rollout = build(played, seen, earned, gamma=self.config.ppo.gamma, kl_coef=kl_coef)
        return Collected(rollout, describe(played, seen, pay, rollout, kl_coef=kl_coef), [], {})

    def kl_coef(self, index: int) -> float:
        """The price of a nat in that update: it falls linearly to 0 where ppo.kl_anneal_updates says so."""
        ppo = self.config.ppo
        return ppo.kl_coef * (max(0.0, 1 - index / ppo.kl_anneal_updates) if ppo.kl_anneal_updates else 1.0)

    def self_check(self) -> dict[str, float]:
        """Refuse to train where the untrained actor's first rollout shows that something is wrong."""
        played = self._sampled("self-check", 0)
        model = self.rounds.start if self.rounds else None
        earned = scorer(self.config.ppo.reward, model)(played.episodes).to_learn_from(self.config.ppo.gamma)
        if large := scale_warning(earned, self.config.ppo.value_clip_range):
            say(f"ppo: {large}")
        return check(played, earned, self.actor_critic, self.reference, self.config.ppo)

    def _sampled(self, name: str, index: int) -> PolicyEpisodes:
        policy, config = self.actor_critic.policy, self.config
        num = config.ppo.num_envs
        noise = _noise(config, num, policy.noise_size, name, index)
        return sample_episodes(self.env, policy, noise, num=num, horizon=config.horizon, seed=self._seed(name, index))

    def _seed(self, name: str, index: int) -> int:
        return chance.integer(self.config.seed, name, index)


def validate(env: VectorEnv, collect: Collect, config: ArmConfig) -> Validation:
    """How often the most likely action succeeds on starts of their own, and how far it is from the reference."""
    policy, reference = collect.actor_critic.policy, collect.reference
    seed = chance.integer(config.seed, "validation")
    played = sample_episodes(env, policy, None, num=config.ppo.num_eval_states, horizon=config.horizon, seed=seed)
    episodes = played.episodes
    seen = assess(played, collect.actor_critic, reference)
    score = episodes.succeeded().float().mean() + TIE_BREAK * episodes.infos["success"].mean()
    return Validation(float(score), float(seen.kl.sum(1).mean()))


def _noise(config: ArmConfig, num_envs: int, size: int, *names: str | int) -> Float[Tensor, "t n a"]:
    return torch.randn(config.horizon, num_envs, size, generator=chance.generator(config.seed, "noise", *names))


def frozen(policy: Policy) -> Policy:
    """A copy that learns no more: the reference."""
    return copy.deepcopy(policy).requires_grad_(False).eval()


def _rounds(folder: RunFolder, config: ArmConfig, policy: Policy) -> Rounds:
    """This run's reward model, and what later rounds need."""
    if not folder.is_done("reward"):
        raise InputError(
            f"ppo: {folder.path / 'reward' / 'model'} is not there yet; run `tercet arm reward` with the same --out, "
            "or set ppo.reward"
        )
    first = load_pairs(folder.path / "reward" / "pairs" / "learned.safetensors")
    start = load_reward_model(folder.path / "reward" / "model", policy.sizes)
    return Rounds(folder.path / "ppo", start, first, config, policy.sizes)


def _checkpoint_every(config: ArmConfig) -> int:
    """So that PPO stops at a checkpoint where a round waits for a person."""
    every, waits = config.ppo.checkpoint_every, asks_a_person(config) and config.reward.num_rounds
    return math.gcd(every, config.reward.round_every) if waits else every


def _env_steps(folder: RunFolder, config: ArmConfig) -> int:
    """Steps that this run has taken in the environment to learn and to choose: not those of the evaluation."""
    ppo, results = config.ppo, folder.results()
    num_validations = sum(validates_after(update, ppo) for update in range(ppo.num_updates + 1))
    played = (ppo.num_updates + 1) * ppo.num_envs + num_validations * ppo.num_eval_states
    before = (results.get(name, {}).get("num_steps", 0) for name in ("demonstrations", "reward_model"))
    return played * config.horizon + sum(before)
