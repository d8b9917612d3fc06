"""Prompts as text, normalised texts, and numbers that depend only on a text."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tercet.lm.data.examples import Example, Message, fraction, normalised


def test_the_prompt_reads_bare_for_one_turn_and_as_a_transcript_for_more() -> None:
    turns = (Message("user", "Hi"), Message("assistant", "Yes?"), Message("user", "Why?"))
    assert Example(turns[:1], "", None, "s", "p").prompt == "Hi"
    assert Example(turns, "", None, "s", "p").prompt == "Human: Hi\n\nAssistant: Yes?\n\nHuman: Why?"


@settings(deadline=None)
@given(text=st.text())
def test_normalising_twice_changes_nothing_and_case_and_spaces_do_not_matter(text: str) -> None:
    assert normalised(normalised(text)) == normalised(text)
    assert normalised(f"  {text}\n") == normalised(text)


def test_normalising_keeps_what_makes_a_question_another() -> None:
    assert normalised("What  is AI?") == normalised("what is ai") == "what is ai"
    assert normalised("1+1") != normalised("1-1")
    assert normalised("?!") == "?!"


def test_marks_in_the_middle_of_a_text_cost_no_more_than_its_length() -> None:
    text, start = "a" + "." * 200_000 + "b", time.process_time()
    assert normalised(text) == text
    assert time.process_time() - start < 2  # a search for marks at the end took minutes


def test_a_run_of_combining_marks_is_normalised_in_time_by_its_length() -> None:
    def marks(number: int) -> str:
        return "a" + "\u0301\u0323" * number  # not in the order of Unicode, so that they are sorted

    assert normalised(marks(10)) == normalised("a" + "\u0323" * 10 + "\u0301" * 10)
    start = time.process_time()
    assert normalised(marks(500_000)) != normalised(marks(500_001))
    assert normalised("\u0f73" * 100_000)
    assert time.process_time() - start < 10  # by the square it takes minutes


def test_a_fraction_is_fixed_for_ever_and_uniform() -> None:
    # sha256 of "held out\nwhat is ai" begins with these 48 bits: runs of other versions must deal alike
    assert fraction("what is ai", "held out") == pytest.approx(0x536BF6D4C3F1 / 2**48, abs=1e-12)
    values = [fraction(str(i), "x") for i in range(2000)]
    assert sum(values) / 2000 == pytest.approx(0.5, abs=0.02)
    assert fraction("a", "x") != fraction("a", "y")
