"""Outcomes from marks and comparisons: by hand, against a slow search, and what they must not depend on."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tercet.core.outcomes import outcomes

NO_PAIRS, NO_ANSWERS = torch.zeros(0, 2, dtype=torch.long), torch.zeros(0)
ALONE = 0.40105813754154704  # u = sigmoid(-u): the most likely score of a try that is only marked good


def test_without_comparisons_the_outcomes_are_the_marks() -> None:
    marks = torch.tensor([1.0, -1.0, 1.0])
    assert outcomes(marks, NO_PAIRS, NO_ANSWERS).tolist() == [1.0, -1.0, 1.0]


def test_outcomes_by_hand() -> None:
    """Of two good tries the second is better: u1 = sigmoid(-u1) - d, u2 = sigmoid(-u2) + d, d = sigmoid(u1 - u2)."""
    first, second = outcomes(torch.ones(2).double(), torch.tensor([[0, 1]]), torch.ones(1)).tolist()
    first, second = first * ALONE, second * ALONE
    d = 1 / (1 + math.exp(second - first))
    assert first == pytest.approx(1 / (1 + math.exp(first)) - d, abs=1e-9)
    assert second == pytest.approx(1 / (1 + math.exp(second)) + d, abs=1e-9)
    assert first < 0.3 < 0.6 < second


def log_posterior(
    scores: torch.Tensor, marks: list[float], pairs: list[tuple[int, int]], answers: list[float]
) -> torch.Tensor:
    total = -scores.square().sum() / 2
    for score, mark in zip(scores, marks, strict=True):
        total = total - torch.log(1 + torch.exp(-mark * score))
    for (one, other), answer in zip(pairs, answers, strict=True):
        difference = scores[other] - scores[one]
        total = total - answer * torch.log(1 + torch.exp(-difference))
        total = total - (1 - answer) * torch.log(1 + torch.exp(difference))
    return total


@settings(max_examples=10, deadline=None)
@given(st.data())
def test_the_outcomes_are_those_of_a_slow_search(data: st.DataObject) -> None:
    num = data.draw(st.integers(2, 5))
    marks = data.draw(st.lists(st.sampled_from([1.0, -1.0]), min_size=num, max_size=num))
    chosen = data.draw(st.lists(st.sampled_from(range(1, num)), min_size=1, max_size=4))
    pairs = [(k - 1, k) for k in chosen]
    answers = data.draw(st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=len(pairs), max_size=len(pairs)))
    scores = torch.zeros(num, dtype=torch.float64, requires_grad=True)
    for _ in range(400):
        (gradient,) = torch.autograd.grad(log_posterior(scores, marks, pairs, answers), scores)
        scores = (scores + 0.3 * gradient).detach().requires_grad_()
    expected = (scores / ALONE).tolist()
    found = outcomes(torch.tensor(marks, dtype=torch.float64), torch.tensor(pairs), torch.tensor(answers))
    assert found.tolist() == pytest.approx(expected, abs=1e-5)


def test_a_wrong_mark_is_corrected_by_its_neighbours() -> None:
    """A try that is marked good, and worse than two tries that are marked bad, is bad."""
    marks, pairs = torch.tensor([-1.0, 1.0, -1.0]), torch.tensor([[0, 1], [1, 2]])
    found = outcomes(marks, pairs, torch.tensor([0.0, 1.0]))
    assert found[1] < found[0] and found[1] < found[2] and found[1] < 0


def test_an_equal_comparison_brings_two_tries_nearer_and_the_order_of_a_pair_does_not_matter() -> None:
    marks, equal = torch.tensor([1.0, -1.0]), torch.tensor([0.5])
    found = outcomes(marks, torch.tensor([[0, 1]]), equal)
    assert 0 < found[0] < 1 and found[1].item() == pytest.approx(-found[0].item())
    swapped = outcomes(marks, torch.tensor([[1, 0]]), torch.tensor([0.0]))
    assert torch.allclose(swapped, outcomes(marks, torch.tensor([[0, 1]]), torch.tensor([1.0])))


def test_outcomes_have_the_precision_of_the_marks() -> None:
    assert outcomes(torch.ones(2), torch.tensor([[0, 1]]), torch.ones(1)).dtype == torch.float32
