"""The built-in set of conversations: pairs that can be understood alone, one of each conversation."""

from collections import Counter

import pytest

from tercet.lm.data.builtin.chitchat import is_clean_answer, is_clean_question, read_chitchat


@pytest.mark.parametrize(
    ("question", "is_clean"),
    [
        ("What is your favorite food?", True),
        ("Do you have any pets?", True),
        ("What did you think of that?", False),  # points back
        ("How about you?", False),  # too short
        ("I like pizza, and you?", False),  # does not begin as a question
        ("What do u like to eat?", False),  # spelling of chats
        ("What is your BYU major?", False),  # about the place where the data were collected
        ("What the hell do you want?", False),
    ],
)
def test_a_clean_question_can_be_understood_alone(question: str, is_clean: bool) -> None:
    assert is_clean_question(question) == is_clean


@pytest.mark.parametrize(
    ("answer", "is_clean"),
    [
        ("I really like Mexican food!", True),
        ("Two dogs. They are both very old.", True),
        ("I like pizza. What about you?", False),
        ("It is at www.example.com.", False),
        ("Oh nice, I like dogs.", False),  # speaks back to something else
        ("I like dogs :) a lot.", False),
        ("Me too.", False),
        ("I like cafés a lot.", False),
        ("I like " + "very " * 30 + "much.", False),
    ],
)
def test_a_clean_answer_is_whole_sentences(answer: str, is_clean: bool) -> None:
    assert is_clean_answer(answer) == is_clean


@pytest.mark.slow
def test_the_package_gives_one_pair_of_each_conversation_and_at_most_eight_answers_to_a_question() -> None:
    examples = read_chitchat("chitchat")
    assert len(examples) > 1000
    assert len({example.location for example in examples}) == len(examples)
    assert max(Counter(example.prompt for example in examples).values()) <= 8
    assert all(is_clean_question(example.prompt) and is_clean_answer(example.chosen) for example in examples)
