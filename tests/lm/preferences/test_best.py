"""The choice of responses for SFT: the highest scores, in the order of the data."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from tercet.config.lm import LmConfig
from tercet.lm.data.examples import Example, Message
from tercet.lm.preferences.best import best_responses

JUDGE = "tercet.lm.preferences.judge:polite_and_to_the_point"
SETS = {
    "a": [
        Example((Message("user", "What is tea?"),), response, None, "a", "a")
        for response in ("No.", "Tea is a drink that people make from leaves and water.", "tea tea tea", "Tea is nice.")
    ],
    "b": [Example((Message("user", "Why?"),), "So.", None, "b", "b")],
}


def test_the_best_responses_of_each_set_stay_in_their_order() -> None:
    best = best_responses(SETS, JUDGE, 0.5)
    assert [example.chosen for example in best["a"]] == [SETS["a"][1].chosen, "Tea is nice."]
    assert best["b"] == SETS["b"]  # rounded up


def test_a_response_without_a_score_is_chosen_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    judge = (
        "def nice(prompts, responses):\n    return [1.0 if 'nice' in response else None for response in responses]\n"
    )
    (tmp_path / "nice_judge.py").write_text(judge)
    monkeypatch.syspath_prepend(tmp_path)
    best = best_responses(SETS, "nice_judge:nice", 0.5)
    assert [example.chosen for example in best["a"]] == ["No.", "Tea is nice."]


def test_all_responses_need_no_judge() -> None:
    assert best_responses(SETS, "", 1.0) == SETS


@pytest.mark.parametrize("judge", ["", "person"])
def test_a_part_needs_a_function(judge: str) -> None:
    with pytest.raises(ValidationError, match=r"sft\.best_fraction=0\.5 needs a function"):
        LmConfig.model_validate({"judge": judge, "sft": {"best_fraction": 0.5}})
