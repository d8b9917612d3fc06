"""Recompute an update of PPO from its kept rollout by the formulas of `core/`, also with other settings."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import nan
from statistics import fmean

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tercet.config.ppo import UpdateConfig
from tercet.core.chain import steps_outside
from tercet.core.kl import k1
from tercet.core.losses import clipped_value_loss, is_outside, ratio_of_probabilities
from tercet.core.masked import masked_mean
from tercet.train.ppo.estimators import estimate
from tercet.train.ppo.kept import NOT_USED, KeptRollout
from tercet.train.ppo.parts import Part, training_data
from tercet.train.ppo.policy_loss import policy_losses, ratio_of_update
from tercet.train.ppo.update import critic_metrics
from tercet.types import Rollout


@dataclass(frozen=True)
class Explained:
    """What PPO computes of each action, (batch, time), and the means that training logs.

    What needs a critic is None without one. What is asked of an actor and critic is nan for an action that no optimizer
    step of the epoch used, because `ppo.kl_stop` ended the update before.
    """

    deltas: Float[Tensor, "b t"] | None
    plain_advantages: Float[Tensor, "b t"]  # before they are whitened
    advantages: Float[Tensor, "b t"]
    returns: Float[Tensor, "b t"] | None
    logprobs: Float[Tensor, "b t"]  # of the actor that is asked for
    ratio: Float[Tensor, "b t"]
    is_outside: Bool[Tensor, "b t"]  # the ratio is outside the clip range, with inner steps that of each
    policy_loss: Float[Tensor, "b t"]
    # of the policy loss by the log-probability: below 0 it is raised, 0 if clipped; with inner steps their mean
    gradient: Float[Tensor, "b t"]
    values: Float[Tensor, "b t"] | None  # of the critic that is asked for
    value_loss: Float[Tensor, "b t"] | None
    inner_ratio: Float[Tensor, "b t k"] | None  # of inner steps, if each has its own
    metrics: dict[str, float]


def explain(kept: KeptRollout, config: UpdateConfig, *, epoch: int | None, trains_actor: bool) -> Explained:
    """Recompute an update. `epoch` chooses the actor and critic: as that epoch used them, or after the update (None).

    In an update that trains the critic alone (not `trains_actor`), the actor is that of the rollout.
    """
    rollout, mask = kept.rollout, kept.rollout.mask
    data = training_data(rollout, config)
    logprobs = kept.after.logprobs if epoch is None else kept.seen.logprobs[epoch]
    values = kept.after.values if epoch is None else kept.seen.values[epoch]
    logprobs = logprobs if trains_actor or epoch is None else rollout.logprobs
    unused = torch.zeros_like(mask) if epoch is None else mask & (kept.seen.steps[epoch] == NOT_USED)
    inner_logprobs = _inner_logprobs(kept, epoch, trains_actor)
    policy_loss, gradient = _loss_and_gradient(logprobs, inner_logprobs, data, config, rollout.kl_coef)
    ratio = ratio_of_probabilities(logprobs, rollout.logprobs, mask, config.ratio_of)
    low, high = config.clip_range, config.upper_clip_range
    outside, inner_ratio = is_outside(ratio - 1.0, low, high), None
    if inner_logprobs is not None and (old := rollout.inner_logprobs) is not None:
        outside = steps_outside(inner_logprobs, old, mask, clip_range=low, clip_range_high=high).all(-1)
        inner_ratio = k1(inner_logprobs, old).exp().masked_fill(unused[..., None], nan)
    return Explained(
        deltas=_deltas(rollout, config) if config.has_critic else None,
        plain_advantages=estimate(rollout, config.model_copy(update={"whiten_advantages": False})).advantages,
        advantages=data.advantages,
        returns=data.returns,
        logprobs=logprobs.masked_fill(unused, nan),
        ratio=ratio.masked_fill(unused, nan),
        is_outside=outside & mask & ~unused,
        policy_loss=policy_loss.masked_fill(unused, nan),
        gradient=gradient.masked_fill(unused, nan),
        values=values.masked_fill(unused, nan) if config.has_critic else None,
        value_loss=_value_loss(values, data, mask, config).masked_fill(unused, nan) if config.has_critic else None,
        inner_ratio=inner_ratio,
        metrics=_metrics(kept, data, config, trains_actor),
    )


def _inner_logprobs(kept: KeptRollout, epoch: int | None, trains_actor: bool) -> Float[Tensor, "b t k"] | None:
    """Return the log-probabilities of inner steps under the actor that `explain` is asked for, if they have ratios."""
    if epoch is None:
        return kept.after.inner_logprobs
    if not trains_actor or kept.seen.inner_logprobs is None:
        return kept.rollout.inner_logprobs
    return kept.seen.inner_logprobs[epoch]


def _loss_and_gradient(
    logprobs: Tensor, inner_logprobs: Tensor | None, data: Part, config: UpdateConfig, kl_coef: float
) -> tuple[Float[Tensor, "b t"], Float[Tensor, "b t"]]:
    """Return the policy loss, and its gradient by the log-probability.

    A step of the log-probability is shared evenly by the inner steps, if there are any.
    """
    leaf = torch.zeros_like(logprobs).requires_grad_()
    inner = None if inner_logprobs is None else inner_logprobs + leaf[..., None] / inner_logprobs.shape[-1]
    loss, _ = policy_losses(logprobs + leaf, inner, data, config, kl_coef)
    (gradient,) = torch.autograd.grad(loss.sum(), leaf)
    return loss.detach(), gradient


def _deltas(rollout: Rollout, config: UpdateConfig) -> Float[Tensor, "b t"]:
    """Return the temporal differences: the advantages of lambda 0."""
    settings = {"lam": 0.0, "lam_alpha": 0.0, "value_lam": 0.0, "whiten_advantages": False}
    return estimate(rollout, config.model_copy(update=settings)).advantages


def _value_loss(values: Tensor, data: Part, mask: Tensor, config: UpdateConfig) -> Float[Tensor, "b t"]:
    assert data.values is not None and data.returns is not None
    return clipped_value_loss(values, data.values, data.returns, mask, clip_range=config.value_clip_range)


def _metrics(kept: KeptRollout, data: Part, config: UpdateConfig, trains_actor: bool) -> dict[str, float]:
    """Return the metrics of the update: means over its optimizer steps, each a mean over the tokens of the step."""
    seen, kl_coef = kept.seen, kept.rollout.kl_coef
    rows: list[dict[str, float]] = []
    for epoch, used in _steps(kept):
        row: dict[str, float] = {}
        if config.has_critic:
            row["critic_loss"] = float(masked_mean(_value_loss(seen.values[epoch], data, used, config), used))
        if trains_actor:
            part, logprobs = replace(data, mask=used), seen.logprobs[epoch]
            inner = None if seen.inner_logprobs is None else seen.inner_logprobs[epoch]
            losses, kl_losses = policy_losses(logprobs, inner, part, config, kl_coef)
            count = data.counts[used].sum(dtype=torch.float64)
            ratio = ratio_of_update(logprobs, inner, part, config, used.sum())
            row |= {
                "actor_loss": float(masked_mean(losses * data.weights, used, count=count)),
                "entropy": float(masked_mean(seen.entropy[epoch], used)),
                "clip_fraction": float(ratio.clip_fraction),
                "approx_kl": float(ratio.approx_kl),
            }
            row |= {} if kl_losses is None else {"kl_loss": float(masked_mean(kl_losses, used))}
        rows.append(row)
    means = {name: fmean(row[name] for row in rows) for name in rows[0]}
    return means | critic_metrics(kept.rollout, data.returns) | {"num_minibatches": float(len(rows))}


def _steps(kept: KeptRollout) -> Iterator[tuple[int, Bool[Tensor, "b t"]]]:
    """Yield the epoch of each optimizer step, and True where the step used an action."""
    for epoch, steps in enumerate(kept.seen.steps):
        for number in steps.unique().tolist():
            if number != NOT_USED:
                yield epoch, steps == number
