"""The judge's rule: each part moves as stated, and no cheap trick beats an honest answer."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tercet.lm.preferences.judge import (
    completeness,
    length,
    polite_and_to_the_point,
    politeness,
    politeness_alone,
    relevance,
    variety,
)

PROMPT = "What is a computer?"
HONEST = "A computer is a machine that helps you to work with data."


def score(response: str, prompt: str = PROMPT) -> float:
    return polite_and_to_the_point([prompt], [response])[0]


@settings(deadline=None)
@given(prompt=st.text(max_size=60), response=st.text(max_size=120))
def test_every_part_and_the_score_stay_between_0_and_1(prompt: str, response: str) -> None:
    parts = [politeness(response), relevance(prompt, response), length(response), completeness(response)]
    assert all(0 <= part <= 1 for part in [*parts, variety(response), score(response, prompt)])


def test_the_score_is_the_stated_sum() -> None:
    response = "It is a computer."  # neutral, an echo (its one content word is the prompt's), four words, whole, varied
    assert score(response) == pytest.approx(0.2 * 0.5 + 0.4 * 0 + 0.25 * 4 / 10 + 0.15 * 1)


@pytest.mark.parametrize(
    "trick",
    [
        "",
        "Thanks! Great! Love it! Happy! Wonderful! Best! :) :) :)",
        "What is a computer?",
        "computer computer computer computer computer computer computer",
        "You are stupid and I hate you. A computer is a machine.",
        "A computer is a machine that",
        "I am so happy and glad, thank you, great, wonderful and lovely, my friend.",
    ],
)
def test_no_trick_beats_an_honest_answer(trick: str) -> None:
    assert score(trick) < score(HONEST)


def test_praise_beyond_the_mildly_friendly_earns_nothing() -> None:
    assert politeness("I hate you, you are horrible.") < politeness("It is a table.") < politeness("I love this.")
    assert politeness("I love this.") == politeness("I love this, it is great, wonderful, and the best!") == 1.0
    assert politeness_alone(["What is a boat?", "Hi."], ["I love this.", "It is a table."]) == [1.0, 0.5]


def test_relevance_counts_stems_of_the_last_question() -> None:
    assert relevance("Tell me about computers and dogs", "Computing is for cats") == 0.5
    assert relevance("Tell me about computers and dogs", "My dogs like computing and cats") == 1.0
    assert relevance("Human: I like dogs\n\nAssistant: Me too.\n\nHuman: And cats?", "Dogs bark") == 0.0
    assert relevance("And you?", "Whales sing") == 0.5


def test_length_has_a_window() -> None:
    assert [length("word " * n) for n in (0, 5, 10, 30, 45, 60, 90)] == [0, 0.5, 1, 1, 0.5, 0, 0]


def test_completeness_wants_a_beginning_and_an_end() -> None:
    assert [completeness(text) for text in ("It is.", "It is", "is it?", "is it", '"Yes," I said.')] == [
        1,
        0.5,
        0.5,
        0,
        1,
    ]


def test_variety_falls_with_repetition_and_with_what_is_not_plain_text() -> None:
    assert variety("one two three four.") == 1.0
    assert variety("one two one two one") == pytest.approx((2 / 4) ** 2)
    assert variety("one two three! Four!!") == pytest.approx(1 / (1 + 2 * 0.5))  # one exclamation mark is free
    assert variety("well 😀😀") == pytest.approx(1 / 2)


def test_a_long_answer_is_judged_in_bounded_time() -> None:
    start = time.process_time()
    assert score("It is good but " * 20_000) < 0.5
    assert time.process_time() - start < 5  # VADER takes minutes for all of it
