"""Cohen's kappa by hand, by its definition, and its properties."""

from random import Random

import pytest

from tercet.core.agreement import cohens_kappa


def by_definition(first: list[str], second: list[str]) -> float:
    """A slow version: p_o and p_e from all pairs of answers."""
    num = len(first)
    observed = sum(a == b for a, b in zip(first, second, strict=True)) / num
    by_chance = sum(a == b for a in first for b in second) / num**2
    return (observed - by_chance) / (1 - by_chance)


def test_the_example_of_two_readers_by_hand() -> None:
    # 20 yes of both, 15 no of both, 5 yes-no, 10 no-yes: p_o = 0.7, p_e = 0.5 * 0.6 + 0.5 * 0.4 = 0.5
    first = ["yes"] * 25 + ["no"] * 25
    second = ["yes"] * 20 + ["no"] * 5 + ["yes"] * 10 + ["no"] * 15
    assert cohens_kappa(first, second) == pytest.approx(0.4)


def test_it_is_what_the_definition_says_for_any_answers() -> None:
    chance = Random(0)
    for _ in range(50):
        first, second = (chance.choices(["left", "right", "equal"], k=chance.randint(2, 30)) for _ in range(2))
        second = (second * 30)[: len(first)]
        if len({*first, *second}) > 1:
            assert cohens_kappa(first, second) == pytest.approx(by_definition(first, second))


def test_full_agreement_is_1_opposite_answers_are_minus_1_and_one_constant_person_is_0() -> None:
    assert cohens_kappa(["a", "b"], ["a", "b"]) == 1
    assert cohens_kappa(["a", "b"], ["b", "a"]) == -1
    assert cohens_kappa(["a", "a", "a", "a"], ["a", "b", "a", "b"]) == 0


def test_it_is_not_defined_if_both_always_say_the_same_word() -> None:
    assert cohens_kappa(["a", "a"], ["a", "a"]) is None


@pytest.mark.parametrize(("first", "second"), [([], []), (["a"], [])])
def test_answers_to_no_or_to_other_questions_are_refused(first: list[str], second: list[str]) -> None:
    with pytest.raises(ValueError, match="two answers to each question"):
        cohens_kappa(first, second)
