"""What must hold before PPO may start on an arm; each of these has silently ruined somebody's run."""

import torch
from jaxtyping import Float
from torch import Tensor

from tercet.arm.play.agent import PolicyEpisodes
from tercet.arm.policies.roles import Policy
from tercet.arm.rollout import ArmActorCritic, Assessed, assess, build
from tercet.config.arm import PpoConfig
from tercet.core.losses import ratio_statistics
from tercet.core.masked import kept
from tercet.errors import FailedError
from tercet.types import Rollout

TOLERANCE = 2e-3  # in nats, or of the size of what was earned


def check(
    played: PolicyEpisodes,
    earned: Float[Tensor, "b t"],
    actor_critic: ArmActorCritic,
    reference: Policy,
    config: PpoConfig,
) -> dict[str, float]:
    """Measure everything on one rollout of the untrained actor; FailedError says what does not hold and why.

    Finite numbers; ratio 1 with the training forward, a row at a time; KL 0 from the reference; rewards that sum to
    what was earned less the price of the KL; a value that goes on from one state to the next.
    """
    seen = assess(played, actor_critic, reference)
    numbers = {"observations": played.episodes.next_observations, "logprobs": seen.logprobs, "rewards": earned}
    for name, values in {**numbers, "values": seen.values}.items():
        if not values.isfinite().all():
            raise _failed(f"{name} are not finite", "the environment, a network or a reward is broken")
    # undiscounted, so that the sum of a decision's rewards is that of its steps
    rollout = build(played, seen, earned, gamma=1.0, kl_coef=config.kl_coef)
    log_ratio = kept(seen.logprobs - seen.ref_logprobs, rollout.mask)
    found = {
        "ratio": _ratio(actor_critic, rollout, config.clip_range),
        "kl": float(seen.kl.abs().max()),
        "reward_identity": _reward_identity(rollout.rewards, earned, log_ratio, config.kl_coef),
        "continuation": _continuation(seen),
    }
    causes = {
        "ratio": "the log-probabilities of the rollout are not those of the training forward",
        "kl": "the reference is not the policy that the actor starts from",
        "reward_identity": "rewards do not sum to what was earned less the price of the KL",
        "continuation": "the value after an action is not that of the next state: episodes are mixed up",
    }
    for name, value in found.items():
        if not value <= TOLERANCE:
            raise _failed(f"{name} is off by {value:.3g}, more than {TOLERANCE:.3g}", causes[name])
    return found


def scale_warning(earned: Float[Tensor, "b t"], value_clip_range: float) -> str:
    """What to say where rewards are so large that values cannot follow; nothing where they are not."""
    size = float(earned.abs().mean())
    if size <= value_clip_range:
        return ""
    return (
        f"a step earns {size:.3g} by size, in the mean, and ppo.value_clip_range={value_clip_range:g} bounds how far a "
        f"value moves in one update: multiply the weights of ppo.reward by {1 / size:.1g}"
    )


@torch.no_grad()
def _ratio(actor_critic: ArmActorCritic, rollout: Rollout, clip_range: float) -> float:
    """|log ratio| of the first update, which must be 0, and with it the clip fraction and the approximate KL."""
    rows = [
        actor_critic.actor({name: value[i : i + 1] for name, value in rollout.inputs.items()})
        for i in range(len(rollout.mask))
    ]
    again = torch.cat([row.logprobs for row in rows])
    ratio = ratio_statistics(again, rollout.logprobs, rollout.mask, clip_range=clip_range)
    return max(
        float(kept(again - rollout.logprobs, rollout.mask).abs().max()),
        float(ratio.clip_fraction),
        float(ratio.approx_kl),
    )


def _reward_identity(rewards: Tensor, earned: Tensor, log_ratio: Tensor, kl_coef: float) -> float:
    """By how much of its size a row's sum is off: rewards may have any scale, and rounding grows with it."""
    off = (rewards.sum(1) - (earned.sum(1) - kl_coef * log_ratio.sum(1))).abs()
    size = earned.abs().sum(1) + kl_coef * log_ratio.abs().sum(1)
    return float((off / size.clamp(min=torch.finfo(size.dtype).tiny)).max())


def _continuation(seen: Assessed) -> float:
    """Within an episode the value after a decision is the value before the next."""
    taken = seen.decided
    inside = taken.mask[:, 1:] & ~(taken.terminated | taken.truncated)[:, :-1]
    return float((seen.next_values[:, :-1] - seen.values[:, 1:])[inside].abs().max()) if inside.any() else 0.0


def _failed(what: str, why: str) -> FailedError:
    return FailedError(f"PPO's self-check: {what}: {why}. Nothing was trained")
