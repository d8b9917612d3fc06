"""The judge of the answer's kind: each rule applies to its prompts only."""

import pytest

from tercet.lm.preferences.asks import answers_what_is_asked


def score(prompt: str, response: str) -> float:
    return answers_what_is_asked([prompt], [response])[0]


@pytest.mark.parametrize(
    ("prompt", "good", "bad"),
    [
        ("How do you do?", "I'm doing well, thank you.", "The company sells drones."),
        ("Who wrote the hobbit?", "The hobbit was written by Tolkien.", "The hobbit has fourteen feet."),
        ("When was the moon landing?", "The moon landing was in 1969.", "The moon landing is a rock."),
        ("Where do whales live?", "Whales live in the ocean.", "Whales live and sing."),
        ("How many legs has a spider?", "A spider has eight legs.", "A spider has legs."),
        ("Why is the sky blue?", "The sky is blue because of scattered light.", "The sky is not green."),
        ("Do you like guns?", "No, I do not like guns.", "Guns are used widely."),
        ("Can whales sing?", "Yes, they sing all day.", "Drones sing."),
        ("I am afraid.", "You will soon be less afraid.", "Drones are less afraid."),
        ("What is a computer?", "A computer is a machine.", "I like my computer and the machine."),
        ("What is a computer?", "A computer is a machine.", "A computer."),
        ("What is a computer?", "A computer is a machine.", ""),
    ],
)
def test_an_answer_of_the_right_kind_scores_higher(prompt: str, good: str, bad: str) -> None:
    assert 0 <= score(prompt, bad) < score(prompt, good) <= 1


def test_the_score_is_the_mean_of_the_rules_that_apply() -> None:
    # an amount, nobody speaks of himself, one of the two content words
    assert score("How many legs has a spider?", "It has eight legs.") == pytest.approx((1 + 1 + 0.5) / 3)
    assert score("How many legs has a spider?", "My dog has four legs.") == pytest.approx((1 + 0 + 0.5) / 3)
    assert score("How many legs has a spider?", "It has legs.") == pytest.approx((0 + 1 + 0) / 3)  # an echo


def test_only_the_last_question_of_a_conversation_counts() -> None:
    conversation = "Human: Who are you?\n\nAssistant: A bot.\n\nHuman: When was 1984 written?\n\nAssistant:"
    assert score(conversation, "It was written in 1948.") == score("When was 1984 written?", "It was written in 1948.")
