"""Which advantages an algorithm makes of a rollout."""

from typing import Any

import pytest
import torch

from tercet.config.ppo import UpdateConfig
from tercet.core.advantages import gae
from tercet.core.groups import deviations, leave_one_out, standardised
from tercet.train.ppo.estimators import estimate
from tercet.types import Rollout

LENGTHS = torch.tensor([3, 1, 2, 3])
MASK = torch.arange(3)[None] < LENGTHS[:, None]
LAST = torch.arange(3)[None] == LENGTHS[:, None] - 1
SCORES = torch.tensor([2.0, -1.0, 3.0, 5.0])
KL = torch.tensor([[0.1, 0.2, 0.3], [0.5, 0.0, 0.0], [0.0, 0.2, 0.0], [0.0, 0.0, 0.0]])


def config(algorithm: str, **settings: Any) -> UpdateConfig:  # Any: what UpdateConfig checks
    sizes = {"group_size": 2} if algorithm not in ("ppo", "reinforce++") else {}
    return UpdateConfig.model_validate({"algorithm": algorithm, **sizes, **settings})


def rollout(*, critic: bool = False) -> Rollout:
    """Four responses, two to each prompt; the score is paid at the end, a price of KL at each token."""
    values = torch.tensor([[0.5, 1.0, 1.5]]).expand(4, 3).masked_fill(~MASK, 77.0) if critic else None
    return Rollout(
        inputs={},
        logprobs=torch.zeros(4, 3),
        values=values,
        next_values=None if values is None else values.roll(-1, 1),
        discounts=torch.ones(4, 3, dtype=torch.float64),
        rewards=(SCORES[:, None] * LAST - KL).masked_fill(~MASK, 55.0),
        terminated=LAST,
        truncated=torch.zeros_like(LAST),
        mask=MASK,
    )


RETURNS = SCORES - KL.sum(1)  # 1.4, -1.5, 2.8, 5: the price is in the return before the baseline is taken


@pytest.mark.parametrize("algorithm", ["rloo", "grpo", "dr_grpo", "dapo", "gspo"])
def test_all_tokens_of_a_response_have_its_advantage(algorithm: str) -> None:
    formula = {"rloo": leave_one_out, "dr_grpo": deviations}.get(algorithm, standardised)
    found = estimate(rollout(), config(algorithm))
    assert found.returns is None
    torch.testing.assert_close(found.advantages, formula(RETURNS, group_size=2)[:, None] * MASK)


def test_rloo_takes_the_price_of_kl_off_before_the_baseline() -> None:
    found = estimate(rollout(), config("rloo")).advantages[:, 0]
    assert found.tolist() == pytest.approx([2.9, -2.9, -2.2, 2.2], abs=1e-6)


def test_advantages_of_responses_are_whitened_over_responses_not_over_their_tokens() -> None:
    """Over tokens the mean would not be 0: the responses have 3, 1, 2 and 3 of them."""
    found = estimate(rollout(), config("rloo", whiten_advantages=True)).advantages
    of_rows = found[:, 0]
    assert float(of_rows.mean()) == pytest.approx(0, abs=1e-6)
    assert float(of_rows.var(correction=0)) == pytest.approx(1, abs=1e-5)
    assert torch.equal(found, of_rows[:, None] * MASK)


def test_reinforce_whitens_returns_to_go_over_tokens() -> None:
    raw = estimate(rollout(), config("reinforce++", whiten_advantages=False))
    assert raw.returns is None
    expected = [[1.4, 1.5, 1.7], [-1.5, 0, 0], [2.8, 2.8, 0], [5, 5, 5]]
    torch.testing.assert_close(raw.advantages, torch.tensor(expected))
    found = estimate(rollout(), config("reinforce++")).advantages[MASK]
    assert float(found.mean()) == pytest.approx(0, abs=1e-6) and float(found.std(correction=0)) == pytest.approx(1)


def of_gae(lam: float | torch.Tensor) -> Any:  # Any: Advantages
    plain = rollout(critic=True)
    assert plain.values is not None and plain.next_values is not None
    ends = (plain.discounts, plain.terminated, plain.truncated, plain.mask)
    return gae(plain.rewards, plain.values, plain.next_values, *ends, lam=lam)


def test_actor_and_critic_may_have_their_own_lambda() -> None:
    same = estimate(rollout(critic=True), config("ppo", whiten_advantages=False, lam=0.5))
    assert torch.equal(same.advantages, of_gae(0.5).advantages)
    assert same.returns is not None and torch.equal(same.returns, of_gae(0.5).returns)
    apart = estimate(rollout(critic=True), config("ppo", whiten_advantages=False, lam=0.5, value_lam=1.0))
    assert torch.equal(apart.advantages, of_gae(0.5).advantages)
    assert apart.returns is not None and torch.equal(apart.returns, of_gae(1.0).returns)


def test_the_actors_lambda_may_follow_the_length_and_the_critics_does_not() -> None:
    found = estimate(rollout(critic=True), config("ppo", whiten_advantages=False, lam=0.9, lam_alpha=1.0))
    lams = (1 - 1 / LENGTHS.double())[:, None]
    assert torch.equal(found.advantages, of_gae(lams).advantages)
    assert found.returns is not None and torch.equal(found.returns, of_gae(0.9).returns)
