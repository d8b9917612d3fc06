import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tercet.core.advantages import Advantages, gae, length_adaptive_lambda, returns_to_go

NAN = float("nan")
SEEDS = st.integers(0, 2**31)
UNIT = st.floats(0.0, 1.0)
Batch = dict[str, Tensor]


def random_batch(seed: int, b: int = 3, t: int = 9, tail: bool = True) -> Batch:
    """Return rows of several episodes, terminated or truncated, each step with its own discount."""
    generator = torch.Generator().manual_seed(seed)
    rewards, values, next_values = torch.randn(3, b, t, generator=generator)
    ends, kind = torch.rand(2, b, t, generator=generator)
    lengths = torch.randint(1, t + 1, (b, 1), generator=generator) if tail else torch.full((b, 1), t)
    return {
        "rewards": rewards,
        "values": values,
        "next_values": next_values,
        "discounts": torch.rand(b, t, generator=generator, dtype=torch.float64),
        "terminated": (ends < 0.3) & (kind < 0.5),
        "truncated": (ends < 0.3) & (kind >= 0.5),
        "mask": torch.arange(t) < lengths,
    }


def one_row(
    rewards: list[float], values: list[float], next_values: list[float], ends: str, *, gamma: float | list[float]
) -> Batch:
    """`ends` has one letter for each step: T terminated, C truncated (cut off), . neither, _ masked."""
    discounts = torch.tensor([gamma] if isinstance(gamma, list) else [[gamma] * len(ends)], dtype=torch.float64)
    flags = {letter: torch.tensor([[end == letter for end in ends]]) for letter in "TC_"}
    numbers = {"rewards": rewards, "values": values, "next_values": next_values}
    flags = {"terminated": flags["T"], "truncated": flags["C"], "mask": ~flags["_"]}
    return {name: torch.tensor([row]) for name, row in numbers.items()} | flags | {"discounts": discounts}


def slow_gae(batch: Batch, lam: float) -> Tensor:
    """Compute eq. 16 as written: sum the deltas up to the end of the episode, weighted by products of gamma lam."""
    rows = {name: x.tolist() for name, x in batch.items()}
    b, t = batch["rewards"].shape
    advantages = torch.zeros(b, t, dtype=torch.float64)
    for i in range(b):
        for start in range(t):
            weight, now = 1.0, start
            while now < t and rows["mask"][i][now]:
                ahead = 0.0 if rows["terminated"][i][now] else rows["next_values"][i][now]
                gamma = rows["discounts"][i][now]
                delta = rows["rewards"][i][now] + gamma * ahead - rows["values"][i][now]
                advantages[i, start] += weight * delta
                if rows["terminated"][i][now] or rows["truncated"][i][now]:
                    break
                weight, now = weight * gamma * lam, now + 1
    return advantages


def lists(result: Advantages) -> tuple[list[float], list[float]]:
    return result.advantages[0].tolist(), result.returns[0].tolist()


def test_a_terminated_episode_by_hand():
    batch = one_row([1.0, 0.0, 2.0], [0.5, 1.0, 1.5], [1.0, 1.5, NAN], "..T", gamma=0.5)
    # deltas: 1 + 0.5 - 0.5 = 1, 0 + 0.75 - 1 = -0.25, 2 - 1.5 = 0.5; gamma lam = 0.25
    advantages, returns = lists(gae(**batch, lam=0.5))
    assert advantages == [1.0 + 0.25 * -0.125, -0.25 + 0.25 * 0.5, 0.5]
    assert returns == [0.96875 + 0.5, -0.125 + 1.0, 0.5 + 1.5]


def test_a_cut_off_episode_is_bootstrapped_by_hand():
    cut, unfinished = (one_row([1.0, 1.0], [2.0, 3.0], [3.0, 10.0], ends, gamma=0.5) for ends in (".C", ".."))
    # deltas: 1 + 1.5 - 2 = 0.5, 1 + 5 - 3 = 3; gamma lam = 0.5
    for batch in (cut, unfinished):
        assert lists(gae(**batch, lam=1.0)) == ([0.5 + 0.5 * 3.0, 3.0], [4.0, 6.0])


def test_a_padded_tail_and_two_episodes_in_a_row_by_hand():
    batch = one_row([1.0, 2.0, 4.0, NAN], [0.0, 0.0, 0.0, NAN], [0.0, NAN, 8.0, NAN], ".T._", gamma=1.0)
    assert lists(gae(**batch, lam=1.0)) == ([3.0, 2.0, 12.0, 0.0], [3.0, 2.0, 12.0, 0.0])


@given(SEEDS, UNIT)
def test_agrees_with_the_sum_of_the_definition(seed: int, lam: float):
    batch = random_batch(seed)
    result, slow = gae(**batch, lam=lam), slow_gae(batch, lam)
    torch.testing.assert_close(result.advantages.double(), slow, rtol=1e-5, atol=1e-5)
    expected_returns = (slow + batch["values"]).masked_fill(~batch["mask"], 0.0)
    torch.testing.assert_close(result.returns.double(), expected_returns, rtol=1e-5, atol=1e-5)


@given(SEEDS)
def test_lam_1_gives_the_discounted_rewards_minus_the_value(seed: int):
    batch = random_batch(seed, tail=False)
    batch["truncated"].zero_()
    batch["terminated"][:, -1] = True
    batch["next_values"] = batch["values"].roll(-1, 1)  # else the values along the way would not cancel out
    result = gae(**batch, lam=1.0)
    follows = torch.zeros(3)
    for t in reversed(range(9)):
        follows = batch["rewards"][:, t] + batch["discounts"][:, t].float() * follows * ~batch["terminated"][:, t]
        torch.testing.assert_close(result.returns[:, t], follows, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(result.advantages[:, t], follows - batch["values"][:, t], rtol=1e-4, atol=1e-4)


@given(SEEDS)
def test_lam_0_looks_one_step_ahead(seed: int):
    batch = random_batch(seed)
    ahead = batch["next_values"] * ~batch["terminated"]
    expected = (batch["rewards"] + batch["discounts"].float() * ahead - batch["values"]).masked_fill(
        ~batch["mask"], 0.0
    )
    torch.testing.assert_close(gae(**batch, lam=0.0).advantages, expected, rtol=1e-5, atol=1e-5)


@given(SEEDS, st.integers(0, 7), st.sampled_from(["terminated", "truncated", "mask"]))
def test_advantages_do_not_cross_an_episode_border(seed: int, border: int, kind: str):
    batch = random_batch(seed, tail=False)
    batch[kind][:, border] = kind != "mask"
    before = gae(**batch, lam=0.9)
    later = {name: batch[name].clone() for name in ("rewards", "values", "next_values")}
    for x in later.values():
        x[:, border + 1 :] += 100.0
    after = gae(**(batch | later), lam=0.9)
    assert torch.equal(before.advantages[:, : border + 1], after.advantages[:, : border + 1])
    assert not torch.equal(before.advantages[:, border + 1 :], after.advantages[:, border + 1 :])


@given(SEEDS, st.sampled_from([NAN, float("inf")]))
def test_junk_in_the_tail_and_behind_a_termination_changes_nothing(seed: int, junk: float):
    batch = random_batch(seed)
    clean = gae(**batch, lam=0.9)
    tail = ~batch["mask"]
    for name in ("rewards", "values", "discounts"):
        batch[name] = batch[name].masked_fill(tail, junk)
    batch["next_values"] = batch["next_values"].masked_fill(tail | batch["terminated"], junk)
    for name in ("terminated", "truncated"):
        batch[name] = batch[name] | tail
    dirty = gae(**batch, lam=0.9)
    assert torch.equal(clean.advantages, dirty.advantages) and torch.equal(clean.returns, dirty.returns)
    assert dirty.advantages[tail].eq(0).all() and dirty.returns[tail].eq(0).all()


def test_steps_of_different_length_by_hand():
    """A step of two actions, then one of one: each discounts by what lies between it and the next."""
    batch = one_row([1.0, 1.0], [0.0, 2.0], [2.0, 4.0], ".C", gamma=[0.25, 0.5])
    # deltas: 1 + 0.25 * 2 - 0 = 1.5, 1 + 0.5 * 4 - 2 = 1
    assert lists(gae(**batch, lam=0.5)) == ([1.5 + 0.125 * 1.0, 1.0], [1.625, 3.0])


def test_gamma_times_lam_is_rounded_once():
    """The product of the two numbers in fp32 differs from the product in fp64 that is then rounded."""
    gamma, lam = 0.9, 0.95
    batch = one_row([0.0, 1.0], [0.0, 0.0], [0.0, 0.0], ".T", gamma=gamma)
    once, twice = torch.tensor(gamma * lam), torch.tensor(gamma) * torch.tensor(lam)
    assert once != twice
    assert gae(**batch, lam=lam).advantages[0, 0] == once


def test_a_perfect_critic_leaves_no_advantage():
    rewards, gamma = [1.0, -2.0, 0.5, 3.0], 0.9
    values = [0.0] * 5
    for t in reversed(range(4)):
        values[t] = rewards[t] + gamma * values[t + 1]
    batch = one_row(rewards, values[:4], values[1:], "...T", gamma=gamma)
    assert gae(**batch, lam=0.7).advantages[0].tolist() == pytest.approx([0.0] * 4, abs=1e-6)


def test_bf16_values_are_worked_with_in_fp32():
    batch = one_row([1.0, 1.0], [0.0, 0.0], [0.0, 0.0], ".T", gamma=0.999)
    halved = {name: x.bfloat16() if name in ("rewards", "values", "next_values") else x for name, x in batch.items()}
    result = gae(**halved, lam=1.0)
    assert result.advantages.dtype == torch.float32
    assert result.advantages[0, 0].item() == pytest.approx(1.999)  # 2.0 in bf16


# without a critic, and with a lambda of its own for each row


def test_returns_to_go_by_hand():
    batch = one_row([1.0, 0.0, 2.0, 5.0], [NAN] * 4, [NAN] * 4, "..T.", gamma=0.5)
    found = returns_to_go(*(batch[name] for name in ("rewards", "discounts", "terminated", "truncated", "mask")))
    assert found[0].tolist() == [1.5, 1.0, 2.0, 5.0]


@given(SEEDS)
def test_returns_to_go_are_sums_within_an_episode(seed: int):
    batch = random_batch(seed)
    found = returns_to_go(*(batch[name] for name in ("rewards", "discounts", "terminated", "truncated", "mask")))
    nothing = {"values": torch.zeros(3, 9), "next_values": torch.zeros(3, 9)}
    torch.testing.assert_close(found.double(), slow_gae(batch | nothing, 1.0), rtol=1e-5, atol=1e-5)
    assert found[~batch["mask"]].eq(0).all()


def test_the_adaptive_lambda_by_hand():
    mask = torch.arange(100)[None] < torch.tensor([[100], [40], [20], [10], [0]])
    found = length_adaptive_lambda(mask, alpha=0.05)
    assert found.dtype == torch.float64
    assert found[:, 0].tolist() == pytest.approx([1 - 1 / 5, 1 - 1 / 2, 0.0, 0.0, 0.0])


@given(SEEDS, UNIT, UNIT)
def test_each_row_may_have_its_own_lambda(seed: int, lam: float, other: float):
    batch = random_batch(seed)
    lams = torch.tensor([[lam], [other], [lam]], dtype=torch.float64)
    found = gae(**batch, lam=lams).advantages
    for row, one in enumerate((lam, other, lam)):
        assert torch.equal(found[row], gae(**batch, lam=one).advantages[row])
