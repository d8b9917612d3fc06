"""Conditions that must hold before PPO starts. Each violation would spoil a run without an error."""

import torch
from jaxtyping import Float
from torch import Tensor

from tercet.arm.play.agent import Decisions, PolicyEpisodes
from tercet.arm.policies.policy import Policy
from tercet.arm.rollout import ArmActorCritic, assess, build
from tercet.config.arm import PpoConfig
from tercet.core.losses import ratio_statistics
from tercet.core.masked import zero_padding
from tercet.errors import FailedError
from tercet.types import Rollout

TOLERANCE = 2e-3  # in nats, or relative to the size of the rewards


def check(
    played: PolicyEpisodes,
    rewards: Float[Tensor, "b t"],
    actor_critic: ArmActorCritic,
    reference: Policy,
    config: PpoConfig,
) -> dict[str, float]:
    """Check one rollout of the untrained actor; FailedError names the violated condition and its cause.

    Conditions: finite numbers; ratio 1 in the training forward, row by row; KL 0 from the reference; rewards of the
    rollout sum to the rewards of the steps minus the KL penalty; the value after a step is that of the next state.
    """
    assessed = assess(played, actor_critic, reference)
    numbers = {"observations": played.episodes.next_observations, "logprobs": assessed.logprobs, "rewards": rewards}
    for name, values in {**numbers, "values": assessed.values}.items():
        if values is not None and not values.isfinite().all():
            raise _failed(f"{name} are not finite", "the environment, a network or a reward gave them")
    # gamma is 1, so that the reward of a decision is the plain sum over its steps
    rollout = build(played, assessed, rewards, gamma=1.0, kl_coef=config.kl_coef)
    log_ratio = zero_padding(assessed.logprobs - assessed.ref_logprobs, rollout.mask)
    deviations = {
        "ratio": _ratio(actor_critic, rollout, config.clip_range),
        "kl": float(assessed.kl.abs().max()),
        "reward_identity": _reward_identity(rollout.rewards.cpu(), rewards, log_ratio.cpu(), config.kl_coef),
    }
    if assessed.values is not None and assessed.next_values is not None:
        deviations["continuation"] = _continuation(assessed.decisions, assessed.values, assessed.next_values)
    causes = {
        "ratio": "the log-probabilities of the rollout differ from those of the training forward",
        "kl": "the reference differs from the initial actor",
        "reward_identity": "rewards do not sum to the rewards of the steps minus the KL penalty",
        "continuation": "the value after a step differs from that of the next state: episodes are mixed up",
    }
    for name, value in deviations.items():
        if not value <= TOLERANCE:
            raise _failed(f"{name} is off by {value:.3g}, more than {TOLERANCE:.3g}", causes[name])
    return deviations


def scale_warning(rewards: Float[Tensor, "b t"], value_clip_range: float) -> str:
    """Return a warning if rewards are so large that clipped values cannot follow, else an empty string."""
    size = float(rewards.abs().mean())
    if size <= value_clip_range:
        return ""
    return (
        f"the mean absolute reward of a step is {size:.3g}, but ppo.value_clip_range={value_clip_range:g} limits the "
        f"change of a value in one update: multiply the weights of ppo.reward by {1 / size:.1g}"
    )


@torch.no_grad()
def _ratio(actor_critic: ArmActorCritic, rollout: Rollout, clip_range: float) -> float:
    """Largest of |log ratio|, clip fraction and approximate KL before the first update; each must be 0."""
    rows = [
        actor_critic.actor({name: value[i : i + 1] for name, value in rollout.inputs.items()})
        for i in range(len(rollout.mask))
    ]
    logprobs = torch.cat([row.logprobs for row in rows])
    ratio = ratio_statistics(logprobs, rollout.logprobs, rollout.mask, clip_range=clip_range)
    inner = [row.inner_logprobs for row in rows if row.inner_logprobs is not None]
    of_steps = (torch.cat(inner) - rollout.inner_logprobs)[rollout.mask] if rollout.inner_logprobs is not None else None
    return max(
        float(zero_padding(logprobs - rollout.logprobs, rollout.mask).abs().max()),
        0.0 if of_steps is None else float(of_steps.abs().max()),
        float(ratio.clip_fraction),
        float(ratio.approx_kl),
    )


def _reward_identity(rewards: Tensor, step_rewards: Tensor, log_ratio: Tensor, kl_coef: float) -> float:
    """Largest relative error of a row's sum; relative, since rounding grows with the scale of rewards."""
    error = (rewards.sum(1) - (step_rewards.sum(1) - kl_coef * log_ratio.sum(1))).abs()
    size = step_rewards.abs().sum(1) + kl_coef * log_ratio.abs().sum(1)
    return float((error / size.clamp(min=torch.finfo(size.dtype).tiny)).max())


def _continuation(decisions: Decisions, values: Tensor, next_values: Tensor) -> float:
    """Largest difference, within an episode, of the value after a decision and the value before the next."""
    inside = decisions.mask[:, 1:] & ~(decisions.terminated | decisions.truncated)[:, :-1]
    return float((next_values[:, :-1] - values[:, 1:])[inside].abs().max()) if inside.any() else 0.0


def _failed(what: str, why: str) -> FailedError:
    return FailedError(f"PPO's self-check: {what}: {why}. Nothing was trained")
