"""One update of PPO: several epochs of optimizer steps on one rollout."""

import math
from collections.abc import Callable
from functools import partial
from statistics import fmean

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim import Optimizer

from tercet.config.ppo import UpdateConfig
from tercet.core.losses import clipped_value_loss
from tercet.core.masked import masked_mean
from tercet.core.precision import where_fp64_is
from tercet.core.statistics import explained_variance
from tercet.errors import FailedError
from tercet.runs.ranks import num_ranks
from tercet.train import parallel
from tercet.train.loss_scale import LARGEST, LossScale
from tercet.train.optim import apply_gradients, scale_lr
from tercet.train.ppo.kept import Seen
from tercet.train.ppo.learner import Learner
from tercet.train.ppo.parts import Part, minibatches, training_data
from tercet.train.ppo.policy_loss import policy_losses, ratio_of_update
from tercet.types import Rollout


def takes_one_step(config: UpdateConfig, num_rows: int) -> bool:
    """Return True if the rollout is one micro-batch and one optimizer step; values then keep their graph.

    With several ranks they do not: a rollout's values come from all of them.
    """
    return num_ranks() == config.epochs == config.num_minibatches == 1 and num_rows <= config.micro_batch_size


def update(
    learner: Learner,
    rollout: Rollout,
    config: UpdateConfig,
    *,
    generator: torch.Generator,
    train_actor: bool = True,
    extra_actor_loss: Callable[[int], Tensor] | None = None,
    seen: Seen | None = None,
) -> dict[str, float]:
    """Train for several epochs on one rollout; return the means of the metrics.

    If the values still have their graph (see `takes_one_step`), the critic is trained on them without another forward
    pass. Minibatches are made of rows, those of a group together (a prompt that they share is then computed once), or
    with `rollout.independent_steps` of single steps from all episodes, which vary more than whole episodes. `seen`
    records the outputs of actor and critic from which the losses are computed.
    """
    data, mask = training_data(rollout, config), rollout.mask
    whole, micro_size, group_size = (
        (data.steps(), config.micro_batch_size * mask.shape[1], 1)
        if rollout.independent_steps
        else (data, config.micro_batch_size, config.group_size)
    )
    for module in learner.modules.values():
        module.train()
    num_skipped = sum(scale.num_skipped for scale in learner.scales.values())
    costs = whole.mask.sum(1) if rollout.lengths is None else rollout.lengths
    steps: list[dict[str, float]] = []
    batches = minibatches(len(whole.mask), config, group_size, generator)
    for rows in batches:
        parts = parallel.own_batches(costs[rows].tolist(), micro_size)
        micro_batches = [whole.rows(rows[part]) for part in parts]
        count = whole.mask[rows].sum()
        note = _note(seen, len(steps), len(steps) * config.epochs // len(batches))
        metrics = _critic_step(learner, micro_batches, count, config, note) if config.has_critic else {}
        if train_actor:
            counts = (count, where_fp64_is(whole.counts[rows]).sum(dtype=torch.float64))
            extra = partial(extra_actor_loss, len(steps)) if extra_actor_loss else None
            metrics |= _actor_step(learner, micro_batches, counts, config, rollout.kl_coef, extra, note)
            if learner.pace and steps:  # before the first step of an update the KL is 0
                scale_lr(learner.actor_optimizer, learner.pace.follow(metrics["approx_kl"], config.update_kl))
        steps.append(metrics)
        if train_actor and config.kl_stop and metrics["approx_kl"] > config.kl_stop:
            break
    # an optimizer step that kl_stop or an overflow leaves out has no gradient norm
    names = dict.fromkeys(name for metrics in steps for name in metrics)
    means = {name: fmean(metrics[name] for metrics in steps if name in metrics) for name in names}
    if learner.scales:
        means |= {f"{name}_loss_scale": scale.value for name, scale in learner.scales.items()}
        num_now = sum(scale.num_skipped for scale in learner.scales.values())
        means["skipped_steps"] = float(num_now - num_skipped)
    return means | critic_metrics(rollout, data.returns) | {"num_minibatches": float(len(steps))}


def critic_metrics(rollout: Rollout, returns: Float[Tensor, "b t"] | None) -> dict[str, float]:
    """Return how well the critic of the rollout, if there is one, predicted the returns, and the means of both."""
    values, mask = rollout.values, rollout.mask
    if values is None or returns is None:
        return {}
    values = values.detach()
    return {
        "explained_variance": float(explained_variance(values, returns, mask)),
        "return": float(masked_mean(returns, mask)),
        "value": float(masked_mean(values, mask)),
    }


_Note = Callable[[str, Part, Tensor], None]


def _note(seen: Seen | None, number: int, epoch: int) -> _Note:
    """Return a function that records what optimizer step `number` sees of a micro-batch."""

    def note(name: str, part: Part, values: Tensor) -> None:
        if seen is not None:
            seen.note(name, epoch, part.positions, part.mask, values)
            seen.note("steps", epoch, part.positions, part.mask, number + 1)

    return note


def _critic_step(
    learner: Learner, parts: list[Part], count: Tensor, config: UpdateConfig, note: _Note
) -> dict[str, float]:
    assert learner.critic and learner.critic_optimizer  # has_critic
    total, scale = 0.0, learner.scales.get("critic")
    for part in parts:
        assert part.values is not None and part.returns is not None
        values = part.values if part.values.requires_grad else learner.actor_critic.critic(part.inputs)
        losses = clipped_value_loss(
            values, part.values.detach(), part.returns, part.mask, clip_range=config.value_clip_range
        )
        loss = masked_mean(losses, part.mask, count=count)
        _backward(loss, scale)
        total += loss.item()
        note("values", part, values)
    norms = _apply("critic", learner.critic, learner.critic_optimizer, config.max_grad_norm, scale)
    return {"critic_loss": parallel.summed({"loss": total})["loss"]} | norms


def _actor_step(
    learner: Learner,
    parts: list[Part],
    counts: tuple[Tensor, Tensor],
    config: UpdateConfig,
    kl_coef: float,
    extra_actor_loss: Callable[[], Tensor] | None,
    note: _Note,
) -> dict[str, float]:
    """Take a step of the actor; `counts` are those of tokens, and of what the losses are averaged over."""
    sums: dict[str, float] = dict.fromkeys(("actor_loss", "entropy", "clip_fraction", "approx_kl"), 0.0)
    count, loss_count = counts
    scale = learner.scales.get("actor")
    for part in parts:
        out = learner.actor_critic.actor(part.inputs)
        losses, kl_losses = policy_losses(out.logprobs, out.inner_logprobs, part, config, kl_coef)
        ratio = ratio_of_update(out.logprobs, out.inner_logprobs, part, config, count)
        if kl_losses is not None:
            sums["kl_loss"] = sums.get("kl_loss", 0.0) + masked_mean(kl_losses.detach(), part.mask, count=count).item()
        loss = masked_mean(losses * part.weights, part.mask, count=loss_count)
        entropy = masked_mean(out.entropy, part.mask, count=count)
        _backward(loss - config.entropy_coef * entropy if config.entropy_coef else loss, scale)
        sums["actor_loss"] += loss.item()
        sums["entropy"] += entropy.item()
        sums["clip_fraction"] += ratio.clip_fraction.item()
        sums["approx_kl"] += ratio.approx_kl.item()
        note("logprobs", part, out.logprobs)
        note("entropy", part, out.entropy)
        if out.inner_logprobs is not None:
            note("inner_logprobs", part, out.inner_logprobs)
    sums = parallel.summed(sums)
    if config.kl_stop and sums["approx_kl"] > config.kl_stop:
        learner.actor_optimizer.zero_grad(set_to_none=True)  # the policy has moved too far from that of the rollout
        return sums
    if extra_actor_loss is not None:
        extra = extra_actor_loss()
        if extra.requires_grad:  # a rank may have none of its rows
            _backward(extra, scale)
        sums |= parallel.summed({"extra_loss": extra.item()})
    return sums | _apply("actor", learner.actor, learner.actor_optimizer, config.max_grad_norm, scale)


def _backward(loss: Tensor, scale: LossScale | None) -> None:
    """Add the gradients of a loss. In fp16, raise FailedError if it is not finite: a lower scale would not help."""
    if scale is None:  # the gradient's norm tells
        loss.backward()
        return
    if not math.isfinite(loss.item()):
        raise FailedError(f"ppo: the loss is {loss.item()}; try a lower lr, or precision=fp32: {LARGEST}")
    scale.up(loss).backward()


def _apply(
    name: str, module: nn.Module, optimizer: Optimizer, max_norm: float, scale: LossScale | None
) -> dict[str, float]:
    """Take the optimizer's step; return the norm of the gradients, or nothing if they overflowed in fp16."""
    norm = apply_gradients(optimizer, module.parameters(), max_norm, scale)
    optimizer.zero_grad(set_to_none=True)
    return {} if norm is None else {f"{name}_grad_norm": norm}
