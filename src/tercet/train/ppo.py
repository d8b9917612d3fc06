"""Proximal policy optimisation (Schulman et al. 2017) and its relatives, for language models and arms."""

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from statistics import fmean

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim import Optimizer

from tercet.config.ppo import LoopConfig, UpdateConfig
from tercet.core.losses import clipped_value_loss
from tercet.core.masked import masked_mean
from tercet.core.precision import where_fp64_is
from tercet.core.statistics import explained_variance
from tercet.errors import FailedError
from tercet.runs.ranks import num_ranks
from tercet.runs.step import Step
from tercet.runs.stop import deferring, end
from tercet.train import checkpoint, parallel
from tercet.train.chance import generator
from tercet.train.checkpoint import Checkpoint
from tercet.train.ema import Average, learning_state, set_learning_state
from tercet.train.kept import KeptRollout, Seen, outputs
from tercet.train.learned import learned_tensors
from tercet.train.loss_scale import LARGEST, LossScale
from tercet.train.optim import adamw, apply_gradients, set_lr
from tercet.train.parts import Part, minibatches, training_data
from tercet.train.policy_loss import policy_losses, ratio_of_update
from tercet.train.selection import Best, Shrinkage, Validation
from tercet.train.sharding import divided_as
from tercet.train.watch import NEVER, Stopped, StopRule, require_scores
from tercet.types import ActorCritic, Rollout

BEST = "best/"  # prefix of the best actor's parameters in a checkpoint


@dataclass(frozen=True)
class Learner:
    """The actor and, if the algorithm has one, the critic, with their optimizers, and in fp16 their loss scales."""

    actor_critic: ActorCritic
    actor: nn.Module
    critic: nn.Module | None
    actor_optimizer: Optimizer
    critic_optimizer: Optimizer | None
    scales: dict[str, LossScale] = field(
        default_factory=dict
    )  # by the names of `modules`; empty: losses are not scaled

    @classmethod
    def of(
        cls,
        actor_critic: ActorCritic,
        actor: nn.Module,
        critic: nn.Module | None,
        config: UpdateConfig,
        *,
        scales_losses: bool = False,
        eight_bit: bool = False,
    ) -> "Learner":
        """Create a learner with new optimizers, whose moments may be in 8 bits."""
        critic_optimizer = adamw(critic, lr=config.critic_lr, eight_bit=eight_bit) if critic else None
        actor_optimizer = adamw(actor, lr=config.lr, eight_bit=eight_bit)
        learner = cls(actor_critic, actor, critic, actor_optimizer, critic_optimizer)
        return replace(learner, scales={name: LossScale() for name in learner.modules}) if scales_losses else learner

    @property
    def modules(self) -> dict[str, nn.Module]:
        """The networks by their names in a checkpoint."""
        return {"actor": self.actor} | ({"critic": self.critic} if self.critic else {})

    @property
    def optimizers(self) -> dict[str, Optimizer]:
        """The optimizers by the same names."""
        return {"actor": self.actor_optimizer} | ({"critic": self.critic_optimizer} if self.critic_optimizer else {})


@dataclass(frozen=True)
class Collected:
    """One rollout with its metrics and samples; `carry` is the state that the next collection starts from.

    `own` has the tensors of the language side or of the arm that are kept with the rollout, and `seconds` the times of
    parts of the collection.
    """

    rollout: Rollout
    metrics: dict[str, float]
    samples: list[dict[str, str | float]]
    carry: dict[str, float]
    own: Mapping[str, Tensor] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Trained:
    """How training ended: the checkpoint that was kept, and why training stopped early, if it did."""

    best: Best
    stopped: Stopped | None
    shrinkage: Shrinkage | None  # None if it cannot be estimated

    @property
    def best_checkpoint(self) -> dict[str, int | float]:
        """The kept checkpoint, for results.json."""
        return vars(self.best) | (vars(self.shrinkage) if self.shrinkage else {})

    def kept(self, unit: str) -> str:
        """Say which checkpoint was kept; `unit` is what the actor was validated on."""
        text = f"kept the policy of update {self.best.update}: validation score {self.best.score:.3g}"
        if not self.shrinkage or self.shrinkage.num_candidates == 1:
            return text
        of = f"the best of {self.shrinkage.num_candidates} validations on {self.shrinkage.num_scores} {unit}"
        return f"{text}, of which about {self.shrinkage.expected_shrinkage:.2g} is chance ({of})"


def train(
    step: Step,
    learner: Learner,
    *,
    collect: Callable[[int, Mapping[str, float]], Collected],
    validate: Callable[[], Validation],
    carry: dict[str, float],
    config: LoopConfig,
    samples_every: int,
    seed: int,
    extra_actor_loss: Callable[[int, int], Tensor] | None = None,
    after_update: Callable[[int, Collected], None] | None = None,
    stop: StopRule = NEVER,
    keep: Collection[int] = (),
    budget: int = 0,
) -> Trained:
    """Alternate rollouts and updates, from the last checkpoint if there is one; finally, restore the best actor.

    `collect(index, carry)` must depend only on its arguments and the networks, so that a resumed run gives the same
    numbers. `extra_actor_loss(index, minibatch)` is added to the actor's loss, such as the PTX loss of InstructGPT; of
    several ranks, each returns its own part. `after_update(index, collected)` may change the `moving_buffers` of the
    networks (`train/learned.py`), which must stay as they are within an update. An actor whose watched scores have
    fallen, as `stop` defines it, is not kept. If the loop is asked to stop (`runs/stop.py`), it ends after the update,
    with a checkpoint. The rollouts of the updates in `keep` are saved with what the update did to them
    (`train/kept.py`). With a `budget`, training ends after the update at which `carry["sampled_tokens"]` reaches it,
    whose rollout is saved too if any is, and the learning rate falls with these tokens, or with the updates if
    `config.num_updates` is nearer.
    """

    def share_done(num_updates: int, carry: Mapping[str, float]) -> float:
        of_budget = carry["sampled_tokens"] / budget if budget else 0.0
        return max(of_budget, num_updates / config.num_updates)

    average = Average(learner.actor, config.ema_decay)
    restored = step.restore()
    if restored is None:
        with average.in_place():
            start = validate()
        require_scores(start.watched)
        best, best_state, done = Best(0, start.score, start.kl), learning_state(learner.actor), 0
        watched = [start.watched_scores]  # at every validation so far
        candidates = [start.scores.tolist()]  # the scores of every actor that could be kept
        step.log(0, start.metrics)
    else:
        info, folder = restored
        best_state = _load(learner, average, folder)
        learner.scales.update({name: LossScale(**info["loss_scales"][name]) for name in learner.scales})
        best, done, carry = Best(**info["best"]), info["done"], info["carry"]
        watched = info.get("watched", [{}])  # absent in a checkpoint from before there was ppo.watch
        candidates = info.get("candidates")  # absent in a checkpoint from before they were kept

    for index in deferring(range(done, config.num_updates)):
        if stop.reason(watched) or share_done(index, carry) >= 1:
            break
        lr = _anneal(learner, share_done(index, carry), config)
        collected = collect(index, carry)
        carry = collected.carry
        done = index + 1
        is_over = share_done(done, carry) >= 1
        keeps = done in keep or (is_over and len(keep) > 0)
        seen = Seen.nothing(collected.rollout, config.epochs) if keeps else None
        metrics = update(
            learner,
            collected.rollout,
            config,
            generator=generator(seed, "minibatches", index),
            train_actor=index >= config.critic_warmup_updates or not config.has_critic,
            extra_actor_loss=partial(extra_actor_loss, index) if extra_actor_loss else None,
            seen=seen,
        )
        if seen is not None:
            after = outputs(
                learner.actor_critic, collected.rollout, config.micro_batch_size, has_critic=config.has_critic
            )
            step.keep(done, KeptRollout(collected.rollout, seen.of_all_ranks(), after, collected.own).save)
        if after_update is not None:
            after_update(index, collected)
        average.update()
        row = {f"ppo/{name}": value for name, value in (collected.metrics | metrics | {"lr": lr}).items()}
        if validates_after(done, config) or is_over:
            with average.in_place():
                now = validate()
                watched = [*watched, now.watched_scores]
                if now.kl <= config.max_kl and not stop.falls(watched):
                    candidates = candidates and [*candidates, now.scores.tolist()]
                    if now.score > best.score:
                        best, best_state = Best(done, now.score, now.kl), learning_state(learner.actor)
            row |= now.metrics
        last = is_over or bool(stop.reason(watched))
        step.log(done, row, seconds=collected.seconds)
        if done % samples_every == 0 or last:
            step.show(done, collected.samples)
        stops = parallel.stop_is_asked()
        if done % config.checkpoint_every == 0 or last or stops:
            info = {"done": done, "carry": carry, "best": vars(best), "watched": watched, "candidates": candidates}
            if learner.scales:
                info["loss_scales"] = {name: vars(scale) for name, scale in learner.scales.items()}
            parallel.check_alike(learner.modules)
            step.save(info, _checkpoint(learner, average, best_state).save)
        if stops:
            end()
    set_learning_state(learner.actor, best_state)
    falls = stop.reason(watched) if done < config.num_updates else {}
    shrinkage = Shrinkage.of(candidates, seed=seed) if candidates else None
    return Trained(best, Stopped(done, falls) if falls else None, shrinkage)


def validates_after(update: int, config: LoopConfig) -> bool:
    """Return True if the actor is validated after that update; update 0 is the start."""
    return update % config.eval_every == 0 or update == config.num_updates


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


def _checkpoint(learner: Learner, average: Average, best_state: Mapping[str, Tensor]) -> Checkpoint:
    tensors = average.tensors() | {BEST + name: value for name, value in best_state.items()}
    return Checkpoint.of(learner.modules, learner.optimizers, tensors)


def _load(learner: Learner, average: Average, folder: Path) -> dict[str, Tensor]:
    """Load a checkpoint, and return the best actor's parameters."""
    tensors = checkpoint.load(folder, modules=learner.modules, optimizers=learner.optimizers)
    average.load(tensors)
    best = {name.removeprefix(BEST): value for name, value in tensors.items() if name.startswith(BEST)}
    tensors = learned_tensors(learner.actor)
    return {name: divided_as(value, tensors[name]) for name, value in best.items()}


def _anneal(learner: Learner, share_done: float, config: LoopConfig) -> float:
    """Lower the learning rates linearly towards 0; return the actor's."""
    remaining = 1 - share_done
    set_lr(learner.actor_optimizer, config.lr * remaining)
    if learner.critic_optimizer:
        set_lr(learner.critic_optimizer, config.critic_lr * remaining)
    return config.lr * remaining
