"""Rewards that can be checked: a response against the column `answer` of its prompt, or against a pattern.

The final answer of a response is what its last `<answer>...</answer>` or `\\boxed{...}` holds, or what follows its last
`####`. Without such a mark it is the whole response. The column may hold a text with such a mark (openai/gsm8k), a
number, or a list of which each entry is right. Without an answer in the column there is no score.
"""

import re
from collections.abc import Callable
from fractions import Fraction
from typing import Any

from tercet.errors import InputError
from tercet.lm.data.examples import normalised
from tercet.lm.data.reasoning import score_answer

_MARKS = re.compile(r"<answer>(.*?)</answer>|\\boxed\{([^{}]*)\}|####(.*)", re.DOTALL)
_NUMBER = re.compile(
    r"(?:(?<![\w.)])[-+\u2212])?"  # a sign, and not the minus of 3-2
    r"(?:(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+)"  # 1,000.5
    r"(?:[eE][-+]?[0-9]{1,3})?(?:/[0-9]+)?"
)

ScoreFunction = Callable[[list[str], list[str]], list[float]]


def exact_match(responses: list[str], answer: list[object]) -> list[float | None]:
    """Score 1 if the final answer is that of the column, except for case, spaces, and punctuation at its ends."""
    return [_best(response, wanted, _is_equal) for response, wanted in zip(responses, answer, strict=True)]


def numeric_match(responses: list[str], answer: list[object]) -> list[float | None]:
    """Score 1 if the last number of the final answer equals that of the column: 1,000.0 equals 1000, and 1/2 equals .5.

    There is no score if the column has no number either.
    """
    return [_best(response, wanted, _is_equal_number) for response, wanted in zip(responses, answer, strict=True)]


def matches(pattern: str) -> ScoreFunction:
    """Return a function that scores 1 if the pattern of `re` matches a whole response, where `.` matches line ends too.

    In the config: `tercet.lm.preferences.verify:matches(PATTERN)`.
    """
    try:
        compiled = re.compile(pattern, re.DOTALL)
    except re.error as error:
        raise InputError(f"{pattern!r} is no regular expression: {error}") from error

    def matches_pattern(prompts: list[str], responses: list[str]) -> list[float]:
        return [float(compiled.fullmatch(response.strip()) is not None) for response in responses]

    return matches_pattern


def reasoning_gym(prompts: list[str], responses: list[str], entry: list[dict[str, Any] | None]) -> list[float | None]:
    """Score the final answer as its task of reasoning-gym does, from 0 to 1; prompts of other sets have no score."""
    rows = zip(prompts, responses, entry, strict=True)
    return [None if one is None else score_answer(prompt, final_answer(text), one) for prompt, text, one in rows]


def final_answer(text: str) -> str:
    """Return the final answer of a text."""
    marks = list(_MARKS.finditer(text))
    return next(part for part in marks[-1].groups() if part is not None).strip() if marks else text.strip()


def last_number(text: str) -> Fraction | None:
    """Return the last number in a text, or None; commas between its digits are left out."""
    found = _NUMBER.findall(text)
    if not found:
        return None
    number, _, divisor = found[-1].replace(",", "").replace("\u2212", "-").partition("/")
    try:
        return Fraction(number) / Fraction(divisor or 1)
    except (ValueError, ZeroDivisionError):  # thousands of digits, or a division by 0
        return None


def _best(response: str, wanted: object, equal: Callable[[str, str], float | None]) -> float | None:
    """Compare the final answer of a response with each that is right; None if nothing is known to be right."""
    texts = [str(one) for one in (wanted if isinstance(wanted, list) else [wanted]) if one is not None]
    found = [equal(final_answer(response), final_answer(text)) for text in texts if text.strip()]
    return max((score for score in found if score is not None), default=None)


def _is_equal(given: str, wanted: str) -> float:
    return float(normalised(given) == normalised(wanted))


def _is_equal_number(given: str, wanted: str) -> float | None:
    right = last_number(wanted)
    return None if right is None else float(last_number(given) == right)
