"""Marked states become a success classifier."""

import pytest
import torch
from tests.arm.conftest import make_episodes

from tercet.arm.networks.reward_ensemble import RewardEnsemble, SuccessClassifier, load_reward_model
from tercet.arm.networks.sizes import Sizes
from tercet.arm.preferences.ensemble import fit_ensemble, pair_loss
from tercet.arm.preferences.judge import succeeded
from tercet.arm.preferences.moments import frames_of_marks
from tercet.arm.preferences.pairs import Pairs, pairs_from_marks
from tercet.arm.preferences.questions import Teacher, ask
from tercet.arm.preferences.segments import Segments, cut
from tercet.config.arm import RewardConfig
from tercet.config.load import load_arm_config
from tercet.errors import FailedError, InputError

MARKS = RewardConfig.model_validate(
    {
        "feedback": "success",
        "judge": "tercet.arm.preferences.judge:succeeded",
        "num_models": 2,
        "hidden_size": 16,
        "epochs": 30,
        "lr": 1e-2,
        "batch_size": 32,
        "micro_batch_size": 32,
    }
)


def test_every_mark_of_the_larger_class_is_paired_with_one_of_the_other() -> None:
    states = torch.arange(6.0)[:, None, None]
    success = torch.tensor([1.0, 0.0, 0.0, float("nan"), 0.0, 1.0])
    pairs = pairs_from_marks(states, success, "somebody")
    assert pairs.better.flatten().tolist() == [0, 5, 0]
    assert pairs.worse.flatten().tolist() == [1, 2, 4]
    assert pairs.preference.tolist() == [1, 1, 1]
    for marks in (torch.ones(6), torch.zeros(6)):
        with pytest.raises(FailedError, match=r"somebody marked \d successes and \d failures, so there"):
            pairs_from_marks(states, marks, "somebody")


def test_a_round_in_which_all_marks_are_alike_takes_the_other_class_from_before() -> None:
    known = Pairs(torch.full((9, 1, 1), 7.0), torch.full((9, 1, 1), -7.0), torch.ones(9))
    states = torch.arange(4.0)[:, None, None]
    only_bad = pairs_from_marks(states, torch.zeros(4), "somebody", known)
    assert only_bad.better.flatten().tolist() == [7] * 4 and only_bad.worse.flatten().tolist() == [0, 1, 2, 3]
    only_good = pairs_from_marks(states, torch.ones(4), "somebody", known)
    assert only_good.better.flatten().tolist() == [0, 1, 2, 3] and only_good.worse.flatten().tolist() == [-7] * 4
    both = pairs_from_marks(states, torch.tensor([1.0, 0.0, 0.0, 1.0]), "somebody", known)
    assert both.better.flatten().tolist() == [0, 3] and both.worse.flatten().tolist() == [1, 2]


def never(segments: Segments) -> torch.Tensor:
    return torch.zeros(len(segments))


def test_a_function_that_marks_no_success_in_a_round_is_learned_from() -> None:
    episodes = make_episodes(4, 6)
    far = torch.full((9, 1, episodes.observations.shape[-1]), 7.0)
    teacher, known = (
        Teacher(MARKS.model_copy(update={"judge": f"{__name__}:never"}), "lift", 1),
        Pairs(far, -far, far[:, 0, 0]),
    )
    asked = ask(episodes, teacher, 5, name="round 1", known=known)
    assert len(asked) == 5 and (asked.better == 7).all()


def test_the_loss_is_the_cross_entropy_of_both_marks() -> None:
    torch.manual_seed(0)
    model = SuccessClassifier(3, num_models=2, hidden_size=4)
    pairs = Pairs(torch.randn(5, 1, 3), torch.randn(5, 1, 3), torch.ones(5))
    terms = pair_loss(model, pairs)
    better, worse = (model.each(states).flatten() for states in (pairs.better, pairs.worse))
    entropy = torch.nn.functional.binary_cross_entropy_with_logits
    expected = (entropy(better, torch.ones(10)) + entropy(worse, torch.zeros(10))) / 2
    torch.testing.assert_close(terms.total / 5, expected)


def test_the_reward_is_the_probability_of_the_mean_logit() -> None:
    torch.manual_seed(0)
    model, states = SuccessClassifier(3, num_models=2, hidden_size=4), torch.randn(7, 3)
    torch.testing.assert_close(model(states), torch.sigmoid(model.each(states).mean(0)))


def test_a_classifier_learns_marks_and_is_saved_as_one(tmp_path) -> None:
    episodes = make_episodes(30, 6)
    episodes.infos["success"].copy_((episodes.next_observations[..., 0] > 0.3).float())  # type: ignore[attr-defined]
    pairs = ask(episodes, Teacher(MARKS, "lift", 0), 120, name="learned")
    model = fit_ensemble(pairs, MARKS, seed=0, name="reward")
    other = make_episodes(30, 6, seed=1).next_observations
    called = model(other) > 0.5
    assert isinstance(model, SuccessClassifier)
    assert float((called == (other[..., 0] > 0.3)).float().mean()) > 0.9
    model.save(tmp_path)
    loaded = load_reward_model(tmp_path, Sizes(3, 2))
    assert isinstance(loaded, SuccessClassifier) and torch.equal(loaded(other), model(other))
    RewardEnsemble(3, num_models=1, hidden_size=4).save(tmp_path)
    assert type(load_reward_model(tmp_path, Sizes(3, 2))) is RewardEnsemble


def test_later_questions_are_about_states_on_which_the_classifiers_disagree() -> None:
    episodes = make_episodes(20, 6)
    model = fit_ensemble(ask(episodes, Teacher(MARKS, "lift", 0), 60, name="learned"), MARKS, seed=0, name="reward")
    teacher = Teacher(MARKS, "lift", 1)
    asked = ask(episodes, teacher, 10, name="round 1", model=model)
    random = ask(episodes, teacher, 100, name="round 1")

    def spread(pairs: Pairs) -> float:
        states = torch.cat([pairs.better, pairs.worse])
        return float(model.each(states).sigmoid().std(0).mean())

    assert spread(asked) > 1.5 * spread(random)


def test_a_persons_marks_say_which_states_are_a_success() -> None:
    states = torch.arange(8.0).view(2, 4, 1)
    marks = [[{"step": 3, "call": "good"}, {"step": 0, "call": "bad"}], [{"step": 9, "call": "bad"}]]
    pairs = frames_of_marks(states, torch.tensor([4, 2]), marks, "a person")
    assert pairs.better.flatten().tolist() == [3, 3]
    assert pairs.worse.flatten().tolist() == [0, 5]  # the second episode ended after two steps
    known = Pairs(torch.full((1, 1, 1), 7.0), torch.zeros(1, 1, 1), torch.ones(1))
    pairs = frames_of_marks(states, torch.tensor([4, 2]), [[], marks[1]], "a person", known)
    assert pairs.better.flatten().tolist() == [7] and pairs.worse.flatten().tolist() == [5]


def test_the_built_in_judge_of_marks_is_the_environment() -> None:
    episodes = make_episodes(3, 4)
    frames = cut(episodes, 1, 1)
    assert torch.equal(succeeded(frames), episodes.infos["success"].flatten())


def test_marks_need_a_judge_that_marks_successes() -> None:
    with pytest.raises(InputError, match="feedback=success needs a judge that marks successes"):
        load_arm_config("lift", ["reward.feedback=success"])
