"""The training loop of the supervised steps: gradient accumulation, schedule, checkpoints and resuming."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim import Optimizer

from tercet.config.fit import FitConfig
from tercet.config.section import MOST_ROWS
from tercet.errors import FailedError, InputError
from tercet.runs.ranks import rank
from tercet.runs.step import Step
from tercet.runs.stop import deferring, end
from tercet.train import chance, checkpoint, parallel
from tercet.train.checkpoint import Checkpoint
from tercet.train.loss_scale import LARGEST, LossScale
from tercet.train.optim import adamw, apply_gradients, set_lr, warmup_then_linear

B = TypeVar("B")


def shuffled_plan(num_rows: int, config: FitConfig, *, seed: int, name: str) -> list[list[int]]:
    """Return the rows of each optimizer step, in a new random order for each epoch."""
    if config.epochs * num_rows > MOST_ROWS * 10 and not config.max_steps:
        raise InputError(
            f"{name}.epochs={config.epochs} with {num_rows} rows: more than {MOST_ROWS * 10} rows in total; lower it"
        )
    steps: list[list[int]] = []
    for number in range(config.epochs):
        order = torch.randperm(num_rows, generator=chance.generator(seed, name, "order", number))
        steps += [rows.tolist() for rows in order.split(config.batch_size)]
        if config.max_steps and len(steps) >= config.max_steps:
            return steps[: config.max_steps]
    return steps


@dataclass(frozen=True)
class LossTerms:
    """The sums of the loss and of metrics over the counted units of a micro-batch; not means."""

    total: Float[Tensor, ""]
    metrics: Mapping[str, float]


def fit(
    step: Step,
    *,
    modules: Mapping[str, nn.Module],
    plan: Sequence[Sequence[int]],
    micro_batches: Callable[[Sequence[int]], Sequence[B]],
    count: Callable[[B], int],
    loss: Callable[[B], LossTerms],
    config: FitConfig,
    seed: int,
    metric_prefix: str,
    measure: Callable[[int], Mapping[str, float]] = lambda index: {},
    samples: Callable[[int], Sequence[Mapping[str, str]]] = lambda index: [],
    scale: LossScale | None = None,
    eight_bit: bool = False,
) -> None:
    """Take one optimizer step for each entry of `plan`, a list of rows, from the last checkpoint of `step` on.

    `micro_batches` splits the rows, `count` returns the number of units (tokens, pairs) of a micro-batch, and `loss`
    sums over them. With several ranks, `micro_batches` returns those of this rank. The sums are divided by the count of
    the whole optimizer step. Modules are in training mode in `loss`, and in evaluation mode in `measure`, which returns
    metrics to log after a step, and in `samples`, which returns samples to show. Dropout in `loss` depends only on the
    seed, the step's index and the rank. Raise FailedError if a loss or gradient is not finite. If the loop is asked to
    stop (`runs/stop.py`), it ends after a checkpoint.

    With `eight_bit`, AdamW's moments are in 8 bits. With `scale` (fp16), a step whose gradients overflow is left out,
    and the schedule of the learning rate waits for the next one.
    """
    if not plan:
        raise ValueError("the plan has no optimizer step")
    optimizer = adamw(modules, lr=config.lr, weight_decay=config.weight_decay, eight_bit=eight_bit)
    start = 0
    if (restored := step.restore()) is not None:
        info, folder = restored
        checkpoint.load(folder, modules=modules, optimizers={"optimizer": optimizer})
        start = info["num_steps"]
        scale = scale and LossScale(**info["loss_scale"])
    for index in deferring(range(start, len(plan))):
        chance.seed_everything(seed, metric_prefix, index, *([rank()] if rank() else []))  # rank 0 as one process
        _set_training(modules, True)
        num_taken = index - (scale.num_skipped if scale else 0)
        lr = config.lr * warmup_then_linear(num_taken, len(plan), config.warmup_fraction)
        loss_name = f"{step.name}: the loss of step {index}"
        means = take_step(
            optimizer,
            micro_batches(plan[index]),
            count=count,
            loss=loss,
            lr=lr,
            max_grad_norm=config.max_grad_norm,
            loss_name=loss_name,
            scale=scale,
        )
        _set_training(modules, False)
        row = {f"{metric_prefix}/{name}": value for name, value in {**means, "lr": lr}.items()}
        step.log(index, {**row, **measure(index)})
        step.show(index + 1, samples(index))
        # after the last step too: a run that is killed later does not train again
        stops = parallel.stop_is_asked()
        if (index + 1) % config.checkpoint_every == 0 or index + 1 == len(plan) or stops:
            parallel.check_alike(modules)
            info = {"num_steps": index + 1} | ({"loss_scale": vars(scale)} if scale else {})
            step.save(info, Checkpoint.of(modules, {"optimizer": optimizer}).save)
        if stops:
            end()


def take_step(
    optimizer: Optimizer,
    batches: Sequence[B],
    *,
    count: Callable[[B], int],
    loss: Callable[[B], LossTerms],
    lr: float,
    max_grad_norm: float,
    loss_name: str,
    scale: LossScale | None = None,
) -> dict[str, float]:
    """Take one optimizer step on all the batches; return the means of loss and metrics, and the gradient's norm.

    `batches` are those of this rank; the step and the means are those of all ranks. Raise FailedError if the loss is
    not finite; its message starts with `loss_name`. With `scale`, an overflow of the gradients leaves the step out: it
    then has no gradient norm.
    """
    set_lr(optimizer, lr)
    optimizer.zero_grad(set_to_none=True)
    means = _accumulate(batches, count, loss, scale)
    if not math.isfinite(means["loss"]):
        coarse = f", or precision=fp32: {LARGEST}" if scale else ""
        raise FailedError(f"{loss_name} is {means['loss']}; try a lower lr{coarse}")
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    grad_norm = apply_gradients(optimizer, parameters, max_grad_norm, scale)
    means |= {} if grad_norm is None else {"grad_norm": grad_norm}
    return means | ({"loss_scale": scale.value, "skipped_steps": float(grad_norm is None)} if scale else {})


def _accumulate(
    batches: Sequence[B], count: Callable[[B], int], loss: Callable[[B], LossTerms], scale: LossScale | None
) -> dict[str, float]:
    """Accumulate the gradients of one optimizer step; return the means of the loss and of its metrics."""
    # divide by the count of all micro-batches: a mean of means would give short ones too large a weight
    num_units = int(parallel.summed({"units": sum(count(batch) for batch in batches)})["units"])
    if num_units == 0:
        raise FailedError("an optimizer step has no unmasked token or pair to train on")
    totals: dict[str, float] = {"loss": 0.0}
    for batch in batches:
        terms = loss(batch)
        mean = terms.total / num_units
        (scale.up(mean) if scale else mean).backward()
        for name, value in {"loss": terms.total.item(), **terms.metrics}.items():
            totals[name] = totals.get(name, 0.0) + value
    return {name: total / num_units for name, total in parallel.summed(totals).items()}


def _set_training(modules: Mapping[str, nn.Module], training: bool) -> None:
    for module in modules.values():
        module.train(training)
