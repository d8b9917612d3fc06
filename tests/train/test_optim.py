"""The optimizer decays matrices alone, the schedule warms up and falls, gradients are shortened."""

import math
from importlib.util import find_spec

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tercet.errors import FailedError
from tercet.train.optim import adamw, clip_gradients, set_lr, warmup_then_linear

REASON = "needs bitsandbytes: pip install 'tercet[bits]', or in a folder of its own that PYTHONPATH names"
needs_package = pytest.mark.skipif(find_spec("bitsandbytes") is None, reason=REASON)


def test_the_first_step_is_adam_by_hand() -> None:
    layer = nn.Linear(1, 1)
    with torch.no_grad():
        layer.weight.fill_(2.0)
        layer.bias.fill_(1.0)
    optimizer = adamw(layer, lr=0.1, weight_decay=0.5)
    layer.weight.grad, layer.bias.grad = torch.full((1, 1), 3e-5), torch.full((1,), 3e-5)
    optimizer.step()
    # both moments are unbiased at once, so a step is lr * g / (|g| + eps) = 0.1 * 3e-5 / 4e-5 = 0.075;
    # the weight is a matrix and first shrinks by lr * decay = 5 %, the bias does not
    assert layer.weight.item() == pytest.approx(2.0 * 0.95 - 0.075, abs=1e-6)
    assert layer.bias.item() == pytest.approx(1.0 - 0.075, abs=1e-6)


def test_betas_by_hand_at_the_second_step() -> None:
    layer = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(layer.weight)
    optimizer = adamw(layer, lr=1.0)
    for gradient in (1.0, 0.0):
        before = layer.weight.item()
        layer.weight.grad = torch.full((1, 1), gradient)
        optimizer.step()
    # m = 0.9 * 0.1, v = 0.95 * 0.05; unbiased by 1 - 0.9^2 and 1 - 0.95^2
    wanted = (0.09 / 0.19) / (math.sqrt(0.0475 / 0.0975) + 1e-5)
    assert before - layer.weight.item() == pytest.approx(wanted, rel=1e-5)


def test_frozen_and_shared_parameters() -> None:
    shared, frozen = nn.Linear(2, 2), nn.Linear(2, 2).requires_grad_(False)
    optimizer = adamw({"a": shared, "b": nn.Sequential(shared, frozen)}, lr=0.1)
    assert [len(group["params"]) for group in optimizer.param_groups] == [1, 1]
    with pytest.raises(ValueError, match="nothing to train"):
        adamw(frozen, lr=0.1)


def test_set_lr_reaches_every_group() -> None:
    optimizer = adamw(nn.Linear(2, 2), lr=0.1)
    set_lr(optimizer, 0.02)
    assert [group["lr"] for group in optimizer.param_groups] == [0.02, 0.02]


def test_the_schedule_by_hand() -> None:
    # two of eight steps warm up, to a third and two thirds; then six steps fall by a sixth each
    wanted = [1 / 3, 2 / 3, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6]
    assert [warmup_then_linear(i, 8, 0.25) for i in range(8)] == pytest.approx(wanted)
    assert warmup_then_linear(0, 1, 0.9) == 1.0
    with pytest.raises(ValueError, match="step 8"):
        warmup_then_linear(8, 8, 0.0)


@settings(deadline=None)
@given(st.integers(1, 100), st.floats(0, 0.99))
def test_schedule_rises_once_to_1_then_falls_and_is_never_0(num_steps: int, fraction: float) -> None:
    factors = [warmup_then_linear(i, num_steps, fraction) for i in range(num_steps)]
    peak = factors.index(max(factors))
    assert factors[peak] == 1
    assert all(factor > 0 for factor in factors)
    assert factors[: peak + 1] == sorted(factors[: peak + 1])
    assert factors[peak:] == sorted(factors[peak:], reverse=True)


def test_gradients_are_shortened_to_the_norm_and_short_ones_left() -> None:
    a, b, without = (nn.Parameter(torch.zeros(1)) for _ in range(3))
    a.grad, b.grad = torch.tensor([3.0]), torch.tensor([4.0])
    assert clip_gradients([a, b, without], 1.0) == pytest.approx(5.0)
    assert (a.grad.item(), b.grad.item()) == (pytest.approx(0.6), pytest.approx(0.8))
    assert clip_gradients([a, b], 2.0) == pytest.approx(1.0)
    assert a.grad.item() == pytest.approx(0.6)


@pytest.mark.parametrize("odd", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_is_refused(odd: float) -> None:
    parameter = nn.Parameter(torch.zeros(2))
    parameter.grad = torch.tensor([1.0, odd])
    with pytest.raises(FailedError, match=r"norm is (nan|inf)"):
        clip_gradients([parameter], 1.0)


@needs_package
def test_8_bit_adamw_learns_what_adamw_does_with_a_quarter_of_the_moments() -> None:
    x = torch.randn(256, 64, generator=torch.Generator().manual_seed(0))

    def learned(eight_bit: bool) -> tuple[float, int]:
        torch.manual_seed(0)
        layer = nn.Linear(64, 128)
        optimizer = adamw(layer, lr=0.01, weight_decay=0.1, eight_bit=eight_bit)
        for _ in range(60):
            (layer(x) - x.repeat(1, 2)).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
        state = optimizer.state[layer.weight]
        names = ("exp_avg", "exp_avg_sq") if not eight_bit else ("state1", "state2", "absmax1", "absmax2")
        assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.0]
        return float((layer(x) - x.repeat(1, 2)).square().mean()), sum(state[name].nbytes for name in names)

    (loss, num_bytes), (loss_in_8, num_bytes_in_8) = learned(False), learned(True)
    assert loss_in_8 == pytest.approx(loss, rel=0.1) and loss < 0.2  # from 1.3
    assert num_bytes == 8 * 64 * 128 and num_bytes_in_8 == 2 * 64 * 128 + 8 * 64 * 128 // 256
