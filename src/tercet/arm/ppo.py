"""Step 3: PPO with actor, critic, reference and reward over the actions of the arm.

With an algorithm that compares groups there is no critic. A group is several episodes from the same start.
"""

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from gymnasium.vector import VectorEnv
from torch import Tensor

from tercet.arm.demonstrations.data import NONE
from tercet.arm.demonstrations.digests import digests
from tercet.arm.exploration import MOST_EPISODES, explore_as_kept, lower_exploration
from tercet.arm.kept import tensors_of
from tercet.arm.networks.critic import new_critic
from tercet.arm.networks.reward_ensemble import load_reward_model
from tercet.arm.play.agent import PolicyEpisodes, sample_episodes, set_witness
from tercet.arm.play.environments import EnvFactory
from tercet.arm.play.footage import Footage
from tercet.arm.play.groups import grouped
from tercet.arm.policies.policy import Policy
from tercet.arm.preferences.audit import in_words, is_complete
from tercet.arm.preferences.pairs import load_pairs
from tercet.arm.preferences.questions import Teacher, asks_person
from tercet.arm.preferences.rounds import Rounds
from tercet.arm.rollout import ArmActorCritic, assess, build, describe
from tercet.arm.scoring import REWARD_MODEL, scorer
from tercet.arm.self_check import check, scale_warning
from tercet.arm.stages import reward_sizes, say_unused, start_policy
from tercet.config.arm import ArmConfig, PpoConfig, RewardConfig
from tercet.core.noise import coloured
from tercet.core.running import discounted_sums, merge_moments
from tercet.errors import InputError
from tercet.runs.clock import Stopwatch
from tercet.runs.folder import RunFolder
from tercet.runs.progress import say
from tercet.train import chance
from tercet.train.device import device_of
from tercet.train.ppo.kept import kept_updates
from tercet.train.ppo.learner import Learner
from tercet.train.ppo.loop import Collected, train, validates_after
from tercet.train.ppo.selection import Validation

TIE_BREAK = 1e-3  # weight of the share of steps in success, which decides between policies of equal success
SHOWN = ["ppo/score", "ppo/success", "ppo/episode_return", "ppo/kl", "ppo/explained_variance", "ppo/clip_fraction"]

_NOT_OF = {"success": "ppo/episode_return", "return": "ppo/success"}  # by ArmConfig.measure


def run(folder: RunFolder, config: ArmConfig) -> None:
    """Train the policy on its reward; the best actor is saved in DIR/ppo/model, the critic in DIR/ppo/critic."""
    envs = EnvFactory.of(config)
    policy = start_policy(folder, envs, config.policy, bc=config.bc, seed=config.seed)
    if config.bc.demonstrations == NONE and not config.bc.policy:
        say_unused(policy, "ppo", "in episodes of random actions")
    critic = new_critic(policy.scaled, config.policy, seed=config.seed) if config.ppo.has_critic else None
    device = device_of(config.device)
    policy, critic = policy.to(device), critic.to(device) if critic else None
    loop = config.ppo.model_copy(update={"checkpoint_every": _checkpoint_every(config.ppo, config.reward)})
    teacher, data = Teacher(config.reward, config.env, config.seed), digests(config, "ppo")
    with (
        envs.open(config.ppo.num_envs // config.ppo.group_size) as env,
        envs.open(config.ppo.num_eval_states) as validation_env,
    ):
        explored = _lower_exploration(folder, validation_env, policy, config) if config.ppo.keep_success else {}
        if explored:
            loop = loop.model_copy(update={"lr": loop.lr * explored["lr_factor"]})
        rounds = _rounds(folder, teacher, policy) if REWARD_MODEL in config.ppo.reward else None
        if rounds and config.reward.sees == "pictures":
            _check_audit(folder, config.ppo)
            set_witness(env, policy)
        actor_critic = ArmActorCritic(policy, critic, config.ppo.clip_of)
        collect = Collect(
            env, actor_critic, frozen_copy(policy), rounds, config.ppo, config.horizon, config.seed, config.measure
        )
        checked = collect.self_check()
        shown = [name for name in SHOWN if name != _NOT_OF[config.measure]]
        with folder.step("ppo", total=config.ppo.num_updates, num_before=1, shown=shown, data=data) as step:
            trained = train(
                step,
                Learner.of(actor_critic, policy, critic, config.ppo),
                collect=collect,
                validate=lambda: validate(validation_env, collect),
                carry={},
                after_update=collect.follow if policy.scaled.moving_buffers else None,
                config=loop,
                samples_every=config.ppo.num_updates,
                seed=config.seed,
                keep=kept_updates(config.ppo.num_updates, config.ppo.keep_rollouts),
            )
            step.save_folder("model", policy.save)
            if critic:
                step.save_folder("critic", critic.save)
            env_steps = _env_steps(folder.results() | {"exploration": explored}, config.ppo, config.horizon)
            say(f"ppo: {trained.kept('starts')}")
            results = {"best_checkpoint": trained.best_checkpoint, "self_check": checked, "env_steps": env_steps}
            results |= {"exploration": explored} if explored else {}
            step.finish(results | ({"rounds": rounds.summary(config.ppo.num_updates)} if rounds else {}))


@dataclass(frozen=True)
class Collect:
    """Collect rollouts from fresh starts. Starts and noise depend on the seed and the index of the rollout only."""

    env: VectorEnv
    actor_critic: ArmActorCritic
    reference: Policy
    rounds: Rounds | None
    config: PpoConfig
    horizon: int
    seed: int
    measure: str = "success"  # ArmConfig.measure

    def __call__(self, index: int, carry: Mapping[str, float]) -> Collected:
        """Play one episode in each environment, and compute the rewards of its steps."""
        name, gamma, config = "rollout", self.config.gamma, self.config
        plays = self._plays(name, index)
        played, seed = grouped(plays), self._seed_of(name, index)
        footage = Footage(self.env, [play.episodes for play in plays], [seed] * len(plays), range(config.num_envs))
        model = self.rounds.model_at(index, footage) if self.rounds else None
        stopwatch = Stopwatch()
        step_rewards = stopwatch.timed(scorer(self.config.reward, model).__call__)(played.episodes)
        assessed = assess(played, self.actor_critic, self.reference)
        kl_coef = self.kl_coef(index)
        rewards = step_rewards.for_learning(gamma)
        carry, scale = self._reward_scale(rewards, played.episodes.ends(), index, carry)
        rollout = build(played, assessed, rewards / scale, config=config, gamma=gamma, kl_coef=kl_coef)
        metrics = describe(played, assessed, step_rewards, rollout, kl_coef=kl_coef, config=config)
        if self.measure == "return":
            metrics["episode_return"] = float(played.episodes.returns().mean())
        if config.scale_rewards:
            metrics["reward_scale"] = scale
        own = tensors_of(played, assessed, step_rewards, kl_coef=kl_coef, seed=seed, reward_scale=scale)
        return Collected(rollout, metrics, [], carry, own, {"reward_seconds": stopwatch.seconds})

    def follow(self, index: int, collected: Collected) -> None:
        """Merge the observations of a rollout into the running scale of actor and critic.

        This is done after the update: within it, new and old log-probabilities must be of the same scale.
        """
        critic = self.actor_critic.value_model
        for module in (self.actor_critic.policy, critic) if critic else (self.actor_critic.policy,):
            module.scaled.follow(collected.own["observations"], share=1 / (index + 1))

    def _reward_scale(
        self, rewards: Tensor, ends: Tensor, index: int, carry: Mapping[str, float]
    ) -> tuple[dict[str, float], float]:
        """Return the number that divides the rewards of a rollout, and what the next rollout needs for its own."""
        if not self.config.scale_rewards:
            return {}, 1.0
        sums = discounted_sums(rewards.double(), ends, gamma=self.config.gamma)
        mean, variance = (torch.tensor(carry.get(name, 0.0), dtype=torch.float64) for name in ("mean", "variance"))
        mean, variance = merge_moments(mean, variance, sums.mean(), sums.var(unbiased=False), share=1 / (index + 1))
        # without any reward so far there is nothing to scale
        return {"mean": float(mean), "variance": float(variance)}, math.sqrt(float(variance)) or 1.0

    def kl_coef(self, index: int) -> float:
        """Coefficient of the KL penalty in that update; it decays linearly to 0 over ppo.kl_anneal_updates."""
        num = self.config.kl_anneal_updates
        if self.config.kl_penalty == "none":
            return 0.0
        return self.config.kl_coef * (max(0.0, 1 - index / num) if num else 1.0)

    def self_check(self) -> dict[str, float]:
        """Check the first rollout of the untrained actor; FailedError if something is wrong."""
        played = grouped(self._plays("self-check", 0))
        model = self.rounds.start if self.rounds else None
        rewards = scorer(self.config.reward, model)(played.episodes).for_learning(self.config.gamma)
        scaled = self.config.scale_rewards
        if self.config.has_critic and not scaled and (warning := scale_warning(rewards, self.config.value_clip_range)):
            say(f"ppo: {warning}")
        return check(played, rewards, self.actor_critic, self.reference, self.config)

    def _plays(self, name: str, index: int) -> list[PolicyEpisodes]:
        """Play the starts of a rollout once for each member of a group, each time with other noise."""
        policy, num = self.actor_critic.policy, self.config.num_envs // self.config.group_size
        plays, seed = list[PolicyEpisodes](), self._seed_of(name, index)
        for member in range(self.config.group_size):
            generator = chance.generator(self.seed, "noise", name, index, *([member] if member else []))
            white = torch.randn(self.horizon, num, policy.noise_size, generator=generator)
            noise = coloured(white, exponent=self.config.noise_exponent)
            plays.append(sample_episodes(self.env, policy, noise, num=num, horizon=self.horizon, seed=seed))
        return plays

    def _seed_of(self, name: str, index: int) -> int:
        return chance.integer(self.seed, name, index)


def validate(env: VectorEnv, collect: Collect) -> Validation:
    """Measure success or return of the most likely actions on the validation starts, and the KL from the reference."""
    policy, num = collect.actor_critic.policy, collect.config.num_eval_states
    seed = chance.integer(collect.seed, "validation")
    played = sample_episodes(env, policy, None, num=num, horizon=collect.horizon, seed=seed)
    episodes = played.episodes
    assessed = assess(played, collect.actor_critic, collect.reference)
    kl = float(assessed.kl.sum(1).mean())
    if collect.measure == "return":
        returns = episodes.returns()
        return Validation(float(returns.mean()), returns, kl)
    succeeded, in_success = episodes.succeeded().float(), episodes.infos["success"]
    score = succeeded.mean() + TIE_BREAK * in_success.mean()
    scores = succeeded + TIE_BREAK * in_success.mean(1)
    return Validation(float(score), scores, kl)


def _lower_exploration(folder: RunFolder, env: VectorEnv, policy: Policy, config: ArmConfig) -> dict[str, float]:
    lower = partial(
        lower_exploration,
        env,
        policy,
        log_std=config.policy.log_std,
        keep=config.ppo.keep_success,
        num=min(config.ppo.num_eval_states, MOST_EPISODES),
        horizon=config.horizon,
        seed=config.seed,
        noise_exponent=config.ppo.noise_exponent,
    )
    return explore_as_kept(folder.path / "ppo", policy, lower)


def frozen_copy(policy: Policy) -> Policy:
    """Copy the policy without gradients, as the reference."""
    return copy.deepcopy(policy).requires_grad_(False).eval()


def _rounds(folder: RunFolder, teacher: Teacher, policy: Policy) -> Rounds:
    """Load the reward model, onto the device of the policy, and the pairs of step 2."""
    reward = folder.path / "reward"
    if not folder.is_done("reward"):
        raise InputError(
            f"ppo: {reward / 'model'} does not exist yet; run `tercet arm reward` with the same --out, "
            "or set ppo.reward"
        )
    first = load_pairs(reward / "pairs" / "learned.safetensors")
    sizes = reward_sizes(policy, teacher.config)
    model = load_reward_model(reward / "model", sizes).to(policy.device)
    return Rounds(folder.path / "ppo", model, first, teacher, sizes)


def _check_audit(folder: RunFolder, config: PpoConfig) -> None:
    """Raise InputError if a reward from pictures is used alone, and it is not known how often it is wrong."""
    others = [name for name, weight in config.reward.items() if weight > 0 and name != REWARD_MODEL]
    found = folder.results()["reward_model"].get("audit")
    if not others and not is_complete(found):
        what = in_words(found) if found else "there was none"
        raise InputError(
            f"ppo.reward: a reward from pictures is used alone only after its audit, but {what}. Give more or better "
            "demonstrations or a higher reward.num_episodes, or add another term, such as ppo.reward={reward_model: "
            "0.3, success: 1.0}"
        )


def _checkpoint_every(ppo: PpoConfig, reward: RewardConfig) -> int:
    """Return checkpoint_every, lowered so that a round that waits for a person begins at a checkpoint."""
    waits = asks_person(reward) and reward.num_rounds
    return math.gcd(ppo.checkpoint_every, reward.round_every) if waits else ppo.checkpoint_every


def _env_steps(results: Mapping[str, Any], ppo: PpoConfig, horizon: int) -> int:
    """Count the environment steps of all training and validation of this run, without the final evaluation."""
    num_validations = sum(validates_after(update, ppo) for update in range(ppo.num_updates + 1))
    num_episodes = (ppo.num_updates + 1) * ppo.num_envs + num_validations * ppo.num_eval_states
    earlier = (results.get(name, {}).get("num_steps", 0) for name in ("demonstrations", "reward_model", "exploration"))
    return num_episodes * horizon + sum(earlier)
