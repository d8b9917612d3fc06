"""The audit of a reward from pictures against the truth of the simulator."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.arm.conftest import make_episodes

from tercet.arm.networks.reward_ensemble import RewardEnsemble, SuccessClassifier
from tercet.arm.preferences.audit import (
    Truth,
    audit,
    hacked,
    in_words,
    is_complete,
    load_truth,
    threshold_of,
)
from tercet.errors import InputError


def linear(kind: type[RewardEnsemble], gain: float = 1.0) -> RewardEnsemble:
    """A model whose single member gives tanh(tanh(x)), times `gain`, of the first feature x."""
    model = kind(2, num_models=1, hidden_size=1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        for number in (0, 2, 4):
            model.get_parameter(f"nets.0.{number}.weight")[0, 0] = gain if number == 4 else 1.0
    return model


def truth(values: list[list[float]], success: list[list[int]]) -> Truth:
    seen = torch.tensor(values)[..., None].expand(-1, -1, 2)
    return Truth(seen, torch.tensor(success, dtype=torch.bool))


def test_precision_and_recall_are_those_worked_out_by_hand() -> None:
    held_out = truth([[-1.0, 1.0, 1.0], [1.0, -1.0, -1.0]], [[0, 1, 0], [1, 1, 0]])
    found = audit(linear(SuccessClassifier), 0.5, held_out)
    # called: three pictures, of which two are a success; three successes, of which two are found
    assert (found["precision"], found["recall"]) == (2 / 3, 2 / 3)
    assert (found["num_called"], found["num_success"], found["num_pictures"], found["num_episodes"]) == (3, 3, 6, 2)
    assert in_words(found) == "67% of the pictures that it calls a success are one, and it finds 67% of those"
    assert is_complete(found)


def test_a_share_of_nothing_is_not_measured() -> None:
    for values, success, missing in (([[1.0]], [[0]], "recall"), ([[-1.0]], [[1]], "precision")):
        found = audit(linear(SuccessClassifier), 0.5, truth(values, success))
        assert found[missing] is None and not is_complete(found)
        assert "cannot be measured" in in_words(found)
    assert not is_complete(None)


def test_a_classifier_calls_at_one_half_and_a_reward_where_f1_is_best() -> None:
    learned = truth([[-2.0, -1.0, 0.0, 1.0, 2.0]], [[0, 1, 0, 1, 1]])
    assert threshold_of(linear(SuccessClassifier), learned) == 0.5
    model = linear(RewardEnsemble)
    threshold = threshold_of(model, learned)
    # above 0: 2 of 2 and F1 = 2 * 2 / (2 + 3); above -2: 3 of 4 and F1 = 2 * 3 / (4 + 3), which is better
    with torch.no_grad():
        rewards = model(learned.seen)[0]
    assert rewards[0] < threshold < rewards[1]
    assert threshold_of(model, truth([[1.0, 2.0]], [[0, 0]])) == float("inf")
    # the scale of the reward, which is normalised, does not matter
    model.gain.fill_(3.0)
    model.bias.fill_(-7.0)
    found = audit(model, threshold_of(model, learned), learned)
    assert (found["precision"], found["recall"]) == (3 / 4, 1.0)


def test_an_episode_is_hacked_if_its_end_is_called_a_success_and_is_none() -> None:
    episodes = make_episodes(4, 3, ends={3: 1})
    success = torch.zeros(4, 3)
    success[0, 2] = success[2, 0] = 1.0
    seen = torch.full((4, 3, 2), -1.0)
    seen[0, 2] = seen[1, 2] = seen[2, 0] = seen[3, 1] = 1.0  # the ends of rows 0, 1 and 3, and not the end of row 2
    played = replace(episodes, infos={"success": success}, seen=seen)
    assert hacked(linear(SuccessClassifier), 0.5, played).tolist() == [False, True, False, True]


def test_truth_is_saved_and_a_damaged_file_is_named(tmp_path: Path) -> None:
    saved = truth([[1.0, 2.0]], [[0, 1]])
    saved.save(tmp_path / "held_out.safetensors")
    loaded = load_truth(tmp_path / "held_out.safetensors")
    assert torch.equal(loaded.seen, saved.seen) and torch.equal(loaded.success, saved.success)
    (tmp_path / "held_out.safetensors").write_bytes(b"no")
    with pytest.raises(InputError, match=r"held_out.safetensors: missing or damaged .*run `tercet arm reward` again"):
        load_truth(tmp_path / "held_out.safetensors")
