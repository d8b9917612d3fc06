"""What must hold before PPO may start on an arm; each of these has silently ruined somebody's run."""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from tercet.arm.episodes import Episodes
from tercet.arm.models import Policy
from tercet.arm.rollout import ArmActorCritic, assess, build
from tercet.config.arm import PpoConfig
from tercet.core.losses import ratio_statistics
from tercet.errors import FailedError

TOLERANCE = 2e-3  # in nats or units of reward


def check(
    episodes: Episodes,
    earned: Float[Tensor, "b t"],
    actor_critic: ArmActorCritic,
    reference: Policy,
    config: PpoConfig,
) -> dict[str, float]:
    """Measure everything on one rollout of the untrained actor; FailedError says what does not hold and why.

    Finite numbers; ratio 1 with the training forward, a row at a time; KL 0 from the reference; rewards that sum to
    what was earned less the price of the KL; a value that goes on from one state to the next.
    """
    seen = assess(episodes, actor_critic, reference)
    numbers = {"observations": episodes.next_observations, "logprobs": seen.logprobs, "rewards": earned}
    for name, values in {**numbers, "values": seen.values}.items():
        if not values.isfinite().all():
            raise _failed(f"{name} are not finite", "the environment, a network or a reward is broken")
    rollout = build(episodes, seen, earned, kl_coef=config.kl_coef)
    found = {
        "ratio": _ratio(actor_critic, rollout.inputs, seen.logprobs, config.clip_range),
        "kl": float(seen.kl.abs().max()),
        "reward_identity": _reward_identity(rollout.rewards, earned, seen.logprobs - seen.ref_logprobs, config.kl_coef),
        "continuation": _continuation(episodes, seen.values, seen.next_values),
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


@torch.no_grad()
def _ratio(actor_critic: ArmActorCritic, inputs: Mapping[str, Tensor], logprobs: Tensor, clip_range: float) -> float:
    """|log ratio| of the first update, which must be 0, and with it the clip fraction and the approximate KL."""
    rows = [
        actor_critic.actor({name: value[i : i + 1] for name, value in inputs.items()}) for i in range(len(logprobs))
    ]
    again = torch.cat([row.logprobs for row in rows])
    ratio = ratio_statistics(again, logprobs, torch.ones_like(logprobs).bool(), clip_range=clip_range)
    return max(float((again - logprobs).abs().max()), float(ratio.clip_fraction), float(ratio.approx_kl))


def _reward_identity(rewards: Tensor, earned: Tensor, log_ratio: Tensor, kl_coef: float) -> float:
    return float((rewards.sum(1) - (earned.sum(1) - kl_coef * log_ratio.sum(1))).abs().max())


def _continuation(episodes: Episodes, values: Tensor, next_values: Tensor) -> float:
    """Within an episode the value after an action is the value before the next."""
    inside = ~episodes.ends()[:, :-1]
    return float((next_values[:, :-1] - values[:, 1:])[inside].abs().max()) if inside.any() else 0.0


def _failed(what: str, why: str) -> FailedError:
    return FailedError(f"PPO's self-check: {what}: {why}. Nothing was trained")
