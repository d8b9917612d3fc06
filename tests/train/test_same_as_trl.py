"""Advantages, losses and gradients equal those of TRL's trainers on the same random tensors.

`trl_losses.json` holds the numbers that `benchmarks/peers/losses_trl.py` wrote in an environment with TRL.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tercet.config.ppo import UpdateConfig
from tercet.core.averages import weights
from tercet.core.dpo import implicit_rewards
from tercet.core.losses import clipped_policy_loss, kl_loss, pairwise_loss
from tercet.core.masked import masked_mean
from tercet.train.ppo.estimators import estimate
from tercet.types import Rollout

TRL: dict[str, Any] = json.loads((Path(__file__).parent / "trl_losses.json").read_text())  # Any: JSON
GROUP, LONGEST, BETA = (TRL["sizes"][name] for name in ("group", "longest", "beta"))
SETTINGS: dict[str, dict[str, Any]] = {  # Any: what UpdateConfig checks
    "grpo": {"algorithm": "grpo", "kl_penalty": "none"},
    "grpo_k3": {"algorithm": "grpo"},
    "grpo_k3_weighted": {"algorithm": "grpo", "kl_penalty": "k3_weighted"},
    "dr_grpo": {"algorithm": "dr_grpo"},
    "dapo": {"algorithm": "dapo"},
    "gspo": {"algorithm": "gspo"},
    "rloo": {"algorithm": "rloo", "ratio_of": "response_sum", "mean_over": "responses"},
}


def tensor(name: str) -> Tensor:
    return torch.tensor(TRL["tensors"][name], dtype=torch.float64)


def rollout() -> Rollout:
    mask = tensor("mask").bool()
    last = mask & (mask.flip(1).cumsum(1).flip(1) == 1)
    return Rollout(
        inputs={},
        logprobs=tensor("old_logprobs"),
        values=None,
        next_values=None,
        discounts=torch.ones(mask.shape, dtype=torch.float64),
        rewards=tensor("returns")[:, None] * last,
        terminated=last,
        truncated=torch.zeros_like(last),
        mask=mask,
    )


def test_the_numbers_cover_clipped_tokens_and_padding() -> None:
    assert TRL["trl"] == "1.16.0"
    change = (tensor("logprobs") - tensor("old_logprobs")).exp() - 1
    mask = tensor("mask").bool()
    assert (change[mask] > 0.28).any() and (change[mask] < -0.2).any() and not mask.all()


@pytest.mark.parametrize("name", list(SETTINGS))
def test_advantages_losses_and_gradients_are_those_of_trl(name: str) -> None:
    config = UpdateConfig.model_validate(SETTINGS[name] | {"group_size": GROUP})
    given, mask, logprobs = rollout(), tensor("mask").bool(), tensor("logprobs").requires_grad_()
    advantages = estimate(given, config).advantages
    expected = torch.tensor(TRL[name]["advantages"], dtype=torch.float64)[:, None] * mask
    torch.testing.assert_close(advantages, expected, rtol=0, atol=1e-6)

    losses = clipped_policy_loss(
        logprobs,
        given.logprobs,
        advantages,
        mask,
        clip_range=config.clip_range,
        clip_range_high=config.upper_clip_range,
        ratio_of=config.ratio_of,
    )
    if config.kl_penalty in ("k2", "k3", "k3_weighted"):
        losses = losses + BETA * kl_loss(
            logprobs, given.logprobs, tensor("ref_logprobs"), mask, estimator=config.kl_penalty
        )
    found = weights(mask, mean_over=config.mean_over, max_length=LONGEST)
    loss = masked_mean(losses * found.loss, mask, count=found.count.sum(dtype=torch.float64))
    (gradient,) = torch.autograd.grad(loss, logprobs)
    assert loss.item() == pytest.approx(TRL[name]["loss"], abs=1e-6)
    torch.testing.assert_close(gradient, torch.tensor(TRL[name]["gradient"], dtype=torch.float64), rtol=0, atol=1e-6)
    assert float(gradient.norm()) > 1e-3


def test_the_loss_and_the_gradient_of_dpo_are_those_of_trl() -> None:
    mask, logprobs = tensor("mask").bool(), tensor("logprobs").requires_grad_()
    rewards = implicit_rewards(logprobs, tensor("ref_logprobs"), mask, beta=BETA)
    loss = pairwise_loss(*rewards.chunk(2)).mean()  # the first half of the rows are the chosen responses
    (gradient,) = torch.autograd.grad(loss, logprobs)
    assert loss.item() == pytest.approx(TRL["dpo"]["loss"], abs=1e-6)
    # TRL's loss is handed log-probabilities that are 0 outside a response, so it may sum over all positions
    expected = torch.tensor(TRL["dpo"]["gradient"], dtype=torch.float64) * mask
    torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-6)
    assert float(gradient.norm()) > 1e-3
