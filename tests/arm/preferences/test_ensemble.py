"""The reward ensemble learns the preferences of its pairs."""

import pytest
import torch

from tercet.arm.networks.reward_ensemble import RewardEnsemble
from tercet.arm.preferences.ensemble import correct_by_pair, fit_ensemble, micro_batches, pair_loss
from tercet.arm.preferences.judge import nearer_the_target
from tercet.arm.preferences.pairs import Pairs, Questions, judge_preferences, pairs_from_answers
from tercet.arm.preferences.segments import Segments
from tercet.config.arm import RewardConfig
from tercet.errors import FailedError


def test_pairs_of_single_steps_teach_the_preference_of_the_judge() -> None:
    torch.manual_seed(0)
    before, after = torch.rand(2, 400, 1, 2)
    states = torch.cat([before, after])
    rows = torch.arange(400)
    where = torch.zeros(800, 1, dtype=torch.long)
    questions = Questions(Segments(states, states, states[..., 0], states[..., 0], where, where), rows, rows + 400)
    pairs = pairs_from_answers(before, after, judge_preferences(questions, nearer_the_target, "rule"), "rule")
    model = fit_ensemble(
        pairs, RewardConfig(lr=2e-2, epochs=10, batch_size=40, micro_batch_size=40, hidden_size=8), seed=0, name="test"
    )
    low, high = model(torch.tensor([[0.1, 0.5], [0.9, 0.5]])).tolist()
    assert high > low + 1.0


def test_segments_judged_equal_get_equal_rewards() -> None:
    torch.manual_seed(0)
    low, high = torch.rand(2, 400, 1, 2)
    low[..., 0], high[..., 0] = 0.0, 1.0
    config = RewardConfig(lr=2e-2, epochs=10, batch_size=40, micro_batch_size=40, hidden_size=8)
    probability = {}
    for share in (1.0, 0.5):  # a tenth of the pairs is always decided; the others are decided or ties
        preference = torch.full((400,), share)
        preference[360:] = 1.0
        model = fit_ensemble(Pairs(high, low, preference), config, seed=0, name="test")
        margins = (model(high) - model(low)).flatten() / model.gain
        probability[share] = float(margins.sigmoid().mean())
    assert probability[1.0] > 0.9
    assert abs(probability[0.5] - 0.55) < 0.1  # 0.9 * 0.5 + 0.1 * 1


def test_an_ensemble_that_learns_nothing_is_refused() -> None:
    same = Pairs(torch.zeros(4, 1, 2), torch.zeros(4, 1, 2), torch.ones(4))
    with pytest.raises(FailedError, match="the model learned nothing"):
        fit_ensemble(same, RewardConfig(epochs=1), seed=0, name="test")


def test_a_tie_counts_half_in_the_accuracy() -> None:
    model = RewardEnsemble(2, num_models=2, hidden_size=4)
    states = torch.randn(3, 4, 2)
    pairs = Pairs(states, states.flip(0), torch.tensor([1.0, 0.5, 1.0]))
    terms = pair_loss(model, pairs)
    assert terms.metrics["accuracy"] == 1.5  # one of the first and last pair, which are mirrored, and half of the tie
    first, tie, last = correct_by_pair(model, pairs)
    assert (first + last, tie) == (1.0, 0.5)


def test_micro_batches_hold_all_rows_in_order() -> None:
    pairs = Pairs(torch.arange(5.0).reshape(5, 1, 1), torch.zeros(5, 1, 1), torch.ones(5))
    parts = micro_batches(pairs, [4, 0, 3], 2)
    assert [part.better.flatten().tolist() for part in parts] == [[4.0, 0.0], [3.0]]
