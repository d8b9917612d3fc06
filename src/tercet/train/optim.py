"""The optimizer, the learning-rate schedule and gradient clipping."""

import math
from collections.abc import Iterable, Mapping
from importlib import import_module

from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from tercet.errors import FailedError
from tercet.train.loss_scale import LossScale
from tercet.train.parallel import norm_of_all, sum_gradients
from tercet.train.sharding import is_divided, own_part


def adamw(
    modules: Mapping[str, nn.Module] | nn.Module, *, lr: float, weight_decay: float = 0.0, eight_bit: bool = False
) -> Optimizer:
    """Create AdamW for the trainable parameters; weight decay applies to matrices, not to biases and norms.

    Epsilon is 1e-5: with a smaller one, the tiny gradients of a converged policy would cause full-sized steps. With
    `eight_bit` the moments of tensors of at least 4096 numbers are in 8 bits (Dettmers et al. 2022, arXiv:2110.02861).
    """
    networks = [modules] if isinstance(modules, nn.Module) else list(modules.values())
    parameters = list(dict.fromkeys(p for module in networks for p in module.parameters() if p.requires_grad))
    if not parameters:
        raise ValueError("no parameter requires a gradient, so there is nothing to train")
    groups = [
        {
            "params": [p for p in parameters if is_divided(p) is divided and (p.ndim >= 2) is decays],
            "weight_decay": decay,
        }
        for divided in (False, True)  # torch's fused step does not take both kinds together
        for decays, decay in ((True, weight_decay), (False, 0.0))
    ]
    groups, settings = [group for group in groups if group["params"]], {"lr": lr, "betas": (0.9, 0.95), "eps": 1e-5}
    if eight_bit:
        return import_module("bitsandbytes").optim.AdamW8bit(groups, **settings)
    fused = all(p.device.type in ("cpu", "cuda") and p.is_floating_point() for p in parameters)
    return AdamW(groups, **settings, fused=fused)


def set_lr(optimizer: Optimizer, lr: float) -> None:
    """Set the learning rate of every parameter group."""
    for group in optimizer.param_groups:
        group["lr"] = lr


def scale_lr(optimizer: Optimizer, factor: float) -> None:
    """Multiply the learning rate of every parameter group."""
    for group in optimizer.param_groups:
        group["lr"] *= factor


def warmup_then_linear(index: int, num_steps: int, warmup_fraction: float) -> float:
    """Return the factor of the peak learning rate at step `index` of 0 .. num_steps - 1.

    It rises linearly to 1 at the first step after the warm-up, then falls linearly towards 0 at step num_steps.
    """
    if not 0 <= index < num_steps:
        raise ValueError(f"step {index} is not one of the {num_steps} steps 0 to {num_steps - 1}")
    num_warmup = min(round(warmup_fraction * num_steps), num_steps - 1)
    if index < num_warmup:
        return (index + 1) / (num_warmup + 1)
    return (num_steps - index) / (num_steps - num_warmup)


def apply_gradients(
    optimizer: Optimizer, parameters: Iterable[nn.Parameter], max_norm: float, scale: LossScale | None = None
) -> float | None:
    """Take an optimizer step with the gradients of all ranks, clipped; return their norm before clipping.

    With `scale`, by which the losses were multiplied, return None if the gradients overflowed: no step is taken then.
    """
    parameters = list(parameters)
    sum_gradients(parameters)
    gradients = [p.grad for p in parameters if p.grad is not None]
    if scale is not None:
        scale.down(gradients)
    total = norm_of_all(gradients)
    norm = total.item()
    if scale is not None and not scale.takes_step(norm):
        return None
    _clip(gradients, total, norm, max_norm)
    optimizer.step()
    return norm


def clip_gradients(parameters: Iterable[nn.Parameter], max_norm: float) -> float:
    """Clip the global norm of the gradients to `max_norm`, and return the norm before clipping.

    Of parameters that are divided among ranks, the parts of all ranks count; every rank must call this. Raise
    FailedError if the norm is not finite: such a step would destroy the weights.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    total = norm_of_all(gradients)
    _clip(gradients, total, norm := total.item(), max_norm)
    return norm


def _clip(gradients: Iterable[Tensor], total: Tensor, norm: float, max_norm: float) -> None:
    if not math.isfinite(norm):
        raise FailedError(f"the gradient's norm is {norm}; lower the learning rate, or check the data")
    if norm + 1e-6 > max_norm:  # the epsilon of torch: below this norm it would multiply by 1
        factor = (max_norm / (total + 1e-6)).clamp(max=1.0)
        for gradient in gradients:
            own_part(gradient).mul_(factor.to(gradient.device))
