"""Advantages, losses and gradients equal those of verl and OpenRLHF on the random tensors of `test_same_as_trl.py`.

`verl_openrlhf_losses.json` holds the numbers that `benchmarks/peers/losses_verl_openrlhf.py` wrote.
"""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.train.test_same_as_trl import BETA, GROUP, LONGEST, rollout, tensor
from torch import Tensor

from tercet.config.ppo import UpdateConfig
from tercet.core.averages import MeanOver, weights
from tercet.core.dpo import implicit_rewards
from tercet.core.kl import k1, k2, k3
from tercet.core.losses import clipped_policy_loss, clipped_value_loss, kl_loss, pairwise_loss
from tercet.core.masked import masked_mean
from tercet.train.ppo.estimators import Estimate, estimate

PEERS: dict[str, Any] = json.loads((Path(__file__).parent / "verl_openrlhf_losses.json").read_text())  # Any: JSON
VERL, OPENRLHF = PEERS["verl"], PEERS["openrlhf"]
GAMMA, LAM, VALUE_CLIP = (PEERS["sizes"][name] for name in ("gamma", "lam", "value_clip"))
MASK = tensor("mask").bool()


def numbers(rows: list[Any]) -> Tensor:  # Any: JSON
    return torch.tensor(rows, dtype=torch.float64)


def assert_same(found: Tensor, expected: list[Any]) -> None:  # Any: JSON
    torch.testing.assert_close(found, numbers(expected), rtol=0, atol=1e-6)


def assert_same_loss(losses: Tensor, at: Tensor, expected: dict[str, Any], mean_over: MeanOver = "tokens") -> None:
    found = weights(MASK, mean_over=mean_over, max_length=LONGEST)
    loss = masked_mean(losses * found.loss, MASK, count=found.count.sum(dtype=torch.float64))
    (gradient,) = torch.autograd.grad(loss, at)
    assert loss.item() == pytest.approx(expected["loss"], abs=1e-6)
    assert_same(gradient, expected["gradient"])
    assert float(gradient.norm()) > 1e-3


def estimated(name: str) -> tuple[UpdateConfig, Estimate]:
    """Our advantages. Where verl whitens over tokens it divides the variance by n - 1, and we by n."""
    config = UpdateConfig.model_validate({"algorithm": name, "group_size": GROUP, "gamma": GAMMA, "lam": LAM})
    given, values = rollout(), numbers(PEERS["tensors"]["old_values"])
    if name in ("ppo", "reinforce++"):
        discounts = torch.full(MASK.shape, GAMMA, dtype=torch.float64)
        given = replace(given, discounts=discounts)
    if name == "ppo":
        given = replace(given, values=values, next_values=torch.cat([values[:, 1:], torch.zeros(len(values), 1)], 1))
    found = estimate(given, config)
    if not config.compares_groups:
        num = int(MASK.sum())
        found = replace(found, advantages=found.advantages * math.sqrt((num - 1) / num))
    return config, found


@pytest.mark.parametrize("name", ["ppo", "rloo", "grpo", "dr_grpo", "dapo", "gspo", "reinforce++"])
def test_advantages_losses_and_gradients_are_those_of_verl(name: str) -> None:
    assert VERL["version"] == "0.9.1"
    config, found = estimated(name)
    assert_same(found.advantages, VERL[name]["advantages"])
    logprobs = tensor("logprobs").requires_grad_()
    losses = clipped_policy_loss(
        logprobs,
        tensor("old_logprobs"),
        found.advantages,
        MASK,
        clip_range=config.clip_range,
        clip_range_high=config.upper_clip_range,
        ratio_of=config.ratio_of,
    )
    if config.kl_penalty == "k3":
        kl = kl_loss(logprobs, tensor("old_logprobs"), tensor("ref_logprobs"), MASK, estimator="k3")
        losses = losses + BETA * kl
    assert_same_loss(losses, logprobs, VERL[name], config.mean_over)


def test_returns_and_the_value_loss_are_those_of_verl_and_openrlhf() -> None:
    returns = estimated("ppo")[1].returns
    assert returns is not None
    assert_same(returns * MASK, VERL["ppo"]["returns"])
    values = numbers(PEERS["tensors"]["values"]).requires_grad_()
    for expected in (VERL["value"], OPENRLHF["value"]):
        losses = clipped_value_loss(
            values, numbers(PEERS["tensors"]["old_values"]), returns, MASK, clip_range=VALUE_CLIP
        )
        assert_same_loss(losses, values, expected)


def test_the_estimators_of_the_kl_are_those_of_verl() -> None:
    for name, estimator in {"k1": k1, "k2": k2, "k3": k3}.items():
        assert_same(estimator(tensor("logprobs"), tensor("ref_logprobs")) * MASK, VERL["kl"][name])


@pytest.mark.parametrize(
    ("name", "settings", "mean_over"),
    [
        ("tokens", {"clip_range": 0.2, "clip_range_high": 0.2}, "tokens"),
        ("responses", {"clip_range": 0.2, "clip_range_high": 0.28}, "responses"),
        ("gspo", {"clip_range": 3e-4, "clip_range_high": 4e-4, "ratio_of": "response_mean"}, "responses"),
    ],
)
def test_the_policy_loss_is_that_of_openrlhf(name: str, settings: dict[str, Any], mean_over: MeanOver) -> None:
    assert OPENRLHF["version"] == "0.11.2"
    logprobs = tensor("logprobs").requires_grad_()
    losses = clipped_policy_loss(logprobs, tensor("old_logprobs"), numbers(VERL["ppo"]["advantages"]), MASK, **settings)
    assert_same_loss(losses, logprobs, OPENRLHF[name], mean_over)


def test_the_losses_of_pairs_are_those_of_openrlhf() -> None:
    scores = tensor("returns").requires_grad_()
    logprobs = tensor("logprobs").requires_grad_()
    rewards = implicit_rewards(logprobs, tensor("ref_logprobs"), MASK, beta=BETA)
    for name, at, pairs in (("pairwise", scores, scores), ("dpo", logprobs, rewards)):
        loss = pairwise_loss(*pairs.chunk(2)).mean()
        (gradient,) = torch.autograd.grad(loss, at)
        assert loss.item() == pytest.approx(OPENRLHF[name]["loss"], abs=1e-6)
        assert_same(gradient, OPENRLHF[name]["gradient"])
