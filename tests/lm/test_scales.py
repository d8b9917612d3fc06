"""Reward functions are normalised once to the scale of a reward model, and the scale is saved."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tercet.config.lm import LmConfig
from tercet.core.statistics import AS_IT_IS
from tercet.errors import FailedError, InputError
from tercet.lm.data.examples import Example
from tercet.lm.models.roles import load_policy
from tercet.lm.sampling.responses import Responses
from tercet.lm.sampling.sampler import Sampler
from tercet.lm.scales import draw_examples, find_scales, load_scales, reference_responses, save_scales
from tercet.lm.scoring import REWARD_MODEL, Given, Term, of_model
from tercet.lm.text.encoder import Encoder

MakeConfig = Callable[..., LmConfig]


@pytest.fixture(scope="module")
def config(make_config: MakeConfig) -> LmConfig:
    return make_config(reward={"num_reference_samples": 9}, eval={"batch_size": 4})


@pytest.fixture(scope="module")
def responses(config: LmConfig, examples: list[Example]) -> list[Responses]:
    sampler = Sampler(load_policy(config), Encoder.of(config), temperature=1.0, batch_size=4)
    return reference_responses(sampler, examples, 9, seed=0)


def letters(responses: Responses) -> Tensor:
    """Numbers far from 0, whose differences fp32 would round."""
    return torch.tensor([1e6 + len(set(text)) for text in responses.texts], dtype=torch.float64)


def of_each(responses: list[Responses], score: Callable[[Responses], Tensor]) -> Tensor:
    return torch.cat([score(part) for part in responses])


def test_a_scaled_reward_has_mean_0_and_variance_1_over_the_reference_answers(responses: list[Responses]) -> None:
    term = Term(1.0, of_model(letters), find_scales({"f:g": of_model(letters)}, responses)["f:g"])
    scores = of_each(responses, lambda part: term.added(term.give(part)))
    assert len(scores) == 9
    assert scores.mean().item() == pytest.approx(0.0, abs=1e-6)
    assert scores.var(correction=0).item() == pytest.approx(1.0, abs=1e-6)


def test_the_runs_own_reward_model_keeps_the_scale_of_step_2(responses: list[Responses]) -> None:
    assert find_scales({REWARD_MODEL: of_model(letters)}, responses) == {}


def test_a_reward_that_nobody_has_earned_yet_is_left_as_it_is_and_that_is_said(
    responses: list[Responses], capsys: pytest.CaptureFixture[str]
) -> None:
    assert find_scales({"f:g": of_model(lambda part: torch.zeros(len(part.texts)))}, responses) == {"f:g": AS_IT_IS}
    assert "f:g gave 0 to each of 9 responses" in capsys.readouterr().out


def test_a_constant_is_refused_by_name(responses: list[Responses]) -> None:
    with pytest.raises(InputError, match=r"ppo\.reward: f:g gave 0\.1 to each of 9 responses"):
        find_scales({"f:g": of_model(lambda part: torch.full((len(part.texts),), 0.1))}, responses)


@pytest.mark.parametrize(
    ("scores", "shown"),
    [([1e9, 1e9 + 0.01, 1e9 + 0.02], "1000000000 to 1000000000.02"), ([1e300, 2e300, 3e300], r"1e\+300 to 3e\+300")],
)
def test_scores_that_differ_but_cannot_be_scaled_are_not_called_constant(
    scores: list[float], shown: str, responses: list[Responses]
) -> None:
    def score(part: Responses) -> Tensor:
        return torch.tensor([scores[number % 3] for number in range(len(part.texts))], dtype=torch.float64)

    with pytest.raises(InputError, match=rf"f:g gave scores of {shown} to 9 responses .*too small .*or too large"):
        find_scales({"f:g": of_model(score)}, responses)


def test_scores_that_are_not_finite_are_refused_by_name(responses: list[Responses]) -> None:
    with pytest.raises(FailedError, match="some/model gave scores that are not finite"):
        find_scales({"some/model": of_model(lambda part: torch.full((len(part.texts),), float("nan")))}, responses)


def test_a_scale_is_that_of_the_responses_with_a_score(responses: list[Responses]) -> None:
    def give(part: Responses) -> Given:
        is_missing = torch.tensor([len(text) % 2 == 0 for text in part.texts])
        return Given(letters(part).masked_fill(is_missing, float("nan")), is_missing)

    term = Term(2.0, give, find_scales({"f:g": give}, responses)["f:g"])
    added = of_each(responses, lambda part: term.added(give(part)))
    is_missing = torch.cat([give(part).is_missing for part in responses])
    assert 0 < int(is_missing.sum()) < 9 - 2
    assert (added[is_missing] == 0.0).all()  # the mean of the others
    assert added[~is_missing].mean().item() == pytest.approx(0.0, abs=1e-6)
    assert added[~is_missing].var(correction=0).item() == pytest.approx(4.0, abs=1e-5)
    none = {"f:g": lambda part: Given(letters(part), torch.ones(len(part.texts), dtype=torch.bool))}
    with pytest.raises(InputError, match="f:g gave no score to any response"):
        find_scales(none, responses)


def test_examples_are_drawn_again_only_after_all_have_been_drawn(examples: list[Example]) -> None:
    many = draw_examples(examples, 15, seed=0)
    assert [sum(e is x for x in many) for e in examples] == pytest.approx([2.5] * 6, abs=0.5)
    assert len({e.key for e in draw_examples(examples, 4, seed=0)}) == 4


def test_what_is_kept_is_the_same_to_the_bit(responses: list[Responses], tmp_path: Path) -> None:
    scales = find_scales({"f:g": of_model(letters)}, responses)
    save_scales(scales, tmp_path / "scales.json")
    assert load_scales(tmp_path / "scales.json") == scales
    with pytest.raises(FailedError, match=r"remove .* to start ppo again"):
        load_scales(tmp_path / "none.json")
