"""Responses that can be checked against the column `answer`, or against a pattern."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tercet.config.functions import load_function
from tercet.errors import InputError
from tercet.lm.data.columns import Takes
from tercet.lm.preferences.functions import call_function, load_score_function
from tercet.lm.preferences.verify import exact_match, final_answer, last_number, matches, numeric_match

VERIFY = "tercet.lm.preferences.verify"


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Paris", "Paris"),
        ("  two\nlines ", "two\nlines"),
        ("<answer>1</answer> no, <answer>\n2 </answer> so", "2"),
        (r"Thus \boxed{1/2}.", "1/2"),
        ("5 + 4 = 9\n#### 9", "9"),
        (r"<answer>1</answer> \boxed{2}", "2"),  # the last mark counts
        (r"\boxed{\frac{3}{2}}", r"\frac{3}{2}"),
        (r"\boxed{\{1, \boxed{2}", "2"),  # the first is not closed
        (r"<answer>\boxed{5}</answer>", "5"),
        ("<answer>1 <answer>2</answer>", "2"),
        ("#### 5\n#### 6", "6"),
        ("#### 6\nI hope that helps.", "6"),
        ("####\n6", "6"),
        ("<answer>6</answer>\n#### Check\n2 * 3", "6"),  # a heading
        ("##### Sum\n6", "##### Sum\n6"),
        ("<answer>1", "<answer>1"),
        ("<answer></answer>", ""),
        ("", ""),
    ],
)
def test_the_final_answer_is_what_the_last_mark_holds(text: str, answer: str) -> None:
    assert final_answer(text) == answer


@pytest.mark.parametrize(
    ("response", "answer", "score"),
    [
        ("Paris", "paris", 1.0),
        (" Paris. ", "Paris", 1.0),
        ("It is Paris", "Paris", 0.0),
        ("I think.\n<answer>Paris</answer>", "Paris", 1.0),
        ("Paris", ["Rome", "Paris"], 1.0),
        ("Oslo", ["Rome", "Paris"], 0.0),
        ("", "Paris", 0.0),
        ("42", 42, 1.0),
        ("3, 4, 5", "3, 4, 5", 1.0),
        ("3, 4, 5, 6", "3, 4, 5", 0.0),
        ("anything", None, None),
        ("anything", "", None),
        ("", [], None),
        ("#### 5\n#### 6", "6", 1.0),
        ("#### Step 1\nfoo\n<answer>42</answer>", "42", 1.0),
        ("#### Work\n\\boxed{6}", "6", 1.0),
        (".5", "5", 0.0),
        ("5!", "5", 0.0),
        ("2³", "23", 0.0),
        ("-5", "5", 0.0),
        ("72", 72.0, 1.0),
        ("72.0", 72.0, 1.0),
        ("7", 7.5, 0.0),
        ("inf", float("inf"), 1.0),
    ],
)
def test_an_exact_match_is_of_the_final_answer(response: str, answer: object, score: float | None) -> None:
    assert exact_match([response], [answer]) == [score]


@pytest.mark.parametrize(
    ("response", "answer", "score"),
    [
        ("2 + 2 = 4", "4", 1.0),
        ("So 1,000.0 euros.", 1000, 1.0),
        ("4 or 5", "4", 0.0),
        ("-3", "3", 0.0),
        ("3-4", 4, 1.0),  # not minus four
        ("It is \u22125.", -5, 1.0),
        ("1/2", 0.5, 1.0),
        ("1/0", 1, 0.0),
        ("1, 2, 3", 3, 1.0),
        ("1,2,3", 3, 1.0),
        ("1e3", "She earns 5 * 200.\n#### 1000", 1.0),
        ("<answer>7</answer> in 3 steps", 7, 1.0),
        ("8", [7, 8], 1.0),
        ("none", "4", 0.0),
        ("9" * 5000, "4", 0.0),
        ("4", "unknown", None),
        ("4", None, None),
        (r"\boxed{\frac{3}{2}}", r"\boxed{\frac{1}{2}}", 0.0),
        (r"\boxed{\frac{1}{2}}", r"\boxed{\dfrac{1}{2}}", 1.0),
        (r"\boxed{-\frac{1}{2}}", 2, 0.0),
        (r"\boxed{-\frac{1}{2}}", r"\frac{-1}{2}", 1.0),
        (r"$\frac{3}{4}$", r"$\frac{1}{4}$", 0.0),
        (r"$\tfrac{3}{4}$", 0.75, 1.0),
        (r"1\frac{1}{2}", "11/2", 0.0),
        ("3/2", r"1 \frac{1}{2}", None),
        ("2^10", 10, 0.0),
        ("2^{10}", 10, 0.0),
        ("x^2 = 4", 4, 1.0),
        ("2³", 2, 0.0),
        (r"\boxed{2\sqrt{3}}", 3, 0.0),
        (r"\boxed{2\pi}", 2, 0.0),
        ("1 000", 0, 0.0),
        ("1 000", 1000, 1.0),
        ("1{,}000", 1000, 1.0),
        (r"1\,000", 1000, 1.0),
        (r"1\!000", 1000, 1.0),
        (r"\(5\text{ cm}\)", r"5 \mathrm{cm}", 1.0),
        (r"\boxed{\$5}", r"\$5", 1.0),
        ("1024", "2^10", None),
        ("2", r"\sqrt{2}", None),
        ("2", "{1, 2}", None),
        ("2", [r"\sqrt{4}", 2], 1.0),
        ("#### Plan\n<answer>42</answer> I checked it 3 times", 42, 1.0),
    ],
)
def test_a_numeric_match_is_of_the_last_numbers(response: str, answer: object, score: float | None) -> None:
    assert numeric_match([response], [answer]) == [score]


@given(st.integers(-(10**12), 10**12), st.integers(0, 3))
def test_a_number_is_read_however_it_is_written(number: int, zeros: int) -> None:
    for written in (f"{number}", f"{number:,}", f"{number}." + "0" * (1 + zeros), f"{number}e0", f"{2 * number}/2"):
        assert last_number(f"It is 7, no: {written}") == Fraction(number)


@given(st.text())
def test_any_text_is_read(text: str) -> None:
    assert numeric_match([text], ["1"])[0] in (0.0, 1.0) and exact_match([text], ["1"])[0] in (0.0, 1.0)


def test_a_pattern_is_one_of_the_whole_response() -> None:
    score = load_score_function(f"{VERIFY}:matches(<think>.*</think>\\s*[0-9]+)")
    responses = ["<think>a\nb</think>\n12", " <think></think>1\n", "12", "<think>a</think>12 so"]
    assert call_function(score, ["p"] * 4, responses).total == [1.0, 1.0, 0.0, 0.0]
    with pytest.raises(InputError, match=rf"^{VERIFY}:matches\(\(\): '\(' is no regular expression: missing \)"):
        load_function(f"{VERIFY}:matches(()")


def test_the_functions_take_the_column_of_the_answer() -> None:
    assert Takes.of(exact_match).required == Takes.of(numeric_match).required == ("answer",)
    assert Takes.of(matches(".*")).columns == ()
