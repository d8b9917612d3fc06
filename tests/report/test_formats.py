import pytest
from hypothesis import given
from hypothesis import strategies as st

from tercet.report.formats import duration, listed, num, percent, score, shares, signed


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"), (0, "0"), (6.1349, "6.13"), (38.21, "38.2"), (1234.6, "1,235"), (-0.75, "−0.75"), (0.066, "0.066"),
        (0.0123, "0.012"), (0.00123, "0.0012"), (3e-4, "0.0003"), (2.13e-6, "2.13e−6"), (1.5e7, "1.50e7"),
    ],
)  # fmt: skip
def test_numbers_have_two_or_three_significant_digits(value: float | None, text: str) -> None:
    assert num(value) == text


@given(st.floats(-1e12, 1e12))
def test_a_shown_number_is_near_the_number(value: float) -> None:
    shown = float(num(value).replace("−", "-").replace(",", ""))
    assert abs(shown - value) <= 0.06 * abs(value)


def test_only_exact_shares_show_0_and_100_per_cent() -> None:
    assert [percent(share) for share in (0.0, 0.004, 0.873, 0.996, 1.0)] == ["0%", "0.4%", "87%", "99.6%", "100%"]


def test_scores_line_up_and_differences_have_a_sign() -> None:
    assert [score(value) for value in (8.0, -12.4, None)] == ["8.00", "−12.40", "–"]
    assert [signed(value) for value in (27.0, -1.5, 0.0)] == ["+27.00", "−1.50", "0.00"]


def test_durations_are_as_fine_as_they_need_to_be() -> None:
    assert [duration(value) for value in (None, 7.4, 59.7, 75, 1001, 3599, 3661)] == [
        "", "7 s", "1 min 0 s", "1 min 15 s", "17 min", "1 h 0 min", "1 h 1 min",
    ]  # fmt: skip


def test_lists_read_as_a_sentence() -> None:
    assert [listed(parts) for parts in ([], ["a"], ["a", "b"], ["a", "b", "c"])] == ["", "a", "a and b", "a, b and c"]


def test_shares_scale_from_lowest_to_highest() -> None:
    assert shares([1.0, 3.0, None, 2.0]) == [0.0, 1.0, 0.5, 0.5]
    assert shares([2.0, 2.0]) == [0.5, 0.5]
    assert shares([None]) == [0.5]
