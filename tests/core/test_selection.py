from itertools import combinations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tercet.core.selection import expected_shrinkage

SEEDS = st.integers(0, 2**31)


def chance(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_expected_shrinkage_by_hand():
    # the first is best (1 against 0.5), but prompt 0 alone would choose the second and prompt 1 the third;
    # on the other prompt, each of these has -2, where the first has 1
    scores = torch.tensor([[1.0, 1.0], [3.0, -2.0], [-2.0, 3.0]])
    assert expected_shrinkage(scores, num_draws=10, generator=chance()) == pytest.approx(3.0)
    # prompt 0 chooses the first, which is the best: 0; prompt 1 chooses the second: 2 - 0 on prompt 0
    scores = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    assert expected_shrinkage(scores, num_draws=2000, generator=chance()) == pytest.approx(1.0, abs=0.1)


def test_expected_shrinkage_is_the_mean_over_all_halves():
    scores = torch.randn(4, 7, generator=chance(3), dtype=torch.float64)
    best, losses = scores.mean(1).argmax(), []
    for half in combinations(range(7), 3):
        rest = [prompt for prompt in range(7) if prompt not in half]
        chosen = scores[:, list(half)].mean(1).argmax()
        losses.append(float((scores[best] - scores[chosen])[rest].mean()))
    expected = sum(losses) / len(losses)
    assert expected > 0.1
    assert expected_shrinkage(scores, num_draws=4000, generator=chance()) == pytest.approx(expected, rel=0.1)


@given(SEEDS)
def test_nothing_shrinks_without_a_choice_or_without_noise(seed: int):
    scores = torch.randn(1, 9, generator=chance(seed))
    assert expected_shrinkage(scores, num_draws=3, generator=chance(seed)) == 0  # one candidate
    apart = scores + torch.tensor([[0.0], [3.0], [1.0]])  # the same noise for all: every half chooses the second
    assert expected_shrinkage(apart, num_draws=3, generator=chance(seed)) == 0


@given(SEEDS, st.floats(0.1, 10.0), st.floats(-5.0, 5.0))
def test_expected_shrinkage_has_the_unit_of_the_scores(seed: int, scale: float, shift: float):
    scores = torch.randn(3, 8, generator=chance(seed), dtype=torch.float64)
    plain = expected_shrinkage(scores, num_draws=5, generator=chance(1))
    other = expected_shrinkage(scale * scores + shift, num_draws=5, generator=chance(1))
    assert other == pytest.approx(scale * plain, abs=1e-9)


def test_one_prompt_has_no_halves():
    with pytest.raises(ValueError, match="1 is too few"):
        expected_shrinkage(torch.ones(2, 1), num_draws=1, generator=chance())


def test_expected_shrinkage_is_the_winners_curse_of_simulated_policies():
    """Simulated scores: a true mean per policy, a difficulty per prompt and noise, on 32 prompts."""
    noise = chance(5)
    for truth, tolerance in ((torch.zeros(6), 0.12), (torch.tensor([0.0, 0.4, 0.6, 0.7, 0.75, 0.8]), 0.25)):
        scores = truth[:, None] + torch.randn(2000, 1, 32, generator=noise) + torch.randn(2000, 6, 32, generator=noise)
        best = scores.mean(2).max(1)
        curse = float((best.values - truth[best.indices]).mean())
        assert curse > 0.1
        estimates = [expected_shrinkage(one, num_draws=40, generator=noise) for one in scores[:100]]
        # without the bootstrap's factor of sqrt(2); a little too high if the policies differ
        assert sum(estimates) / 100 == pytest.approx(curse, rel=tolerance)
