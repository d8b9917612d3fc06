"""Rewards that can be checked: a response against the column `answer` of its prompt, or against a pattern.

The final answer of a response is what its last `<answer>...</answer>` or `\\boxed{...}` holds. Without these it is what
follows its last `####` on the line, and without that it is the whole response. The column may hold a text with such
a mark (openai/gsm8k), a number, or a list of which each entry is right. Without an answer in the column there is no
score.
"""

import re
from collections.abc import Callable
from fractions import Fraction
from typing import Any

from tercet.errors import InputError
from tercet.lm.data.builtin.reasoning import score_answer

_TAGGED = re.compile(r"<answer>((?:(?!<answer>).)*?)</answer>", re.DOTALL)
_HASHES = re.compile(r"(?<!#)####(?!#)\s*([^\n]*)")
_BRACES = re.compile(r"\\boxed\s*\{|\\.|[{}]", re.DOTALL)  # with \{ and \}, which open and close nothing
_NUMBER = re.compile(
    r"(?:(?<![\w.)])[-+\u2212])?"  # a sign, and not the minus of 3-2
    r"(?:(?:[0-9]{1,3}([, \u00a0\u2009\u202f])[0-9]{3}(?:\1[0-9]{3})*(?![0-9])|[0-9]+)"  # 1,000
    r"(?:\.[0-9]+)?|\.[0-9]+)"
    r"(?:[eE][-+]?[0-9]{1,3})?(?:/[0-9]+(?:\.[0-9]+)?)?"
)
_LATEX = [
    (re.compile(r"\{,\}|\\[,!;:() \[\]]"), ""),  # spaces, and the ends of a formula
    (re.compile(r"\\([$%])"), r"\1"),
    (re.compile(r"\\(?:text|mathrm|mbox)\s*\{([^{}]*)\}"), r"\1"),  # units
    # A digit before a fraction makes a mixed number such as 1\frac{1}{2}, which is not read.
    (re.compile(r"(?<![-0-9])(?<![0-9]\s)\\([dt]?frac)\s*\{\s*-"), r"-\\\1{"),
    (
        re.compile(
            r"(?<![0-9])(?<![0-9]\s)\\[dt]?frac\s*\{\s*([0-9]+(?:\.[0-9]+)?)\s*\}\s*\{\s*([0-9]+(?:\.[0-9]+)?)\s*\}"
        ),
        r"\1/\2",
    ),
]
_PART_OF_A_TERM = re.compile(r"[\^_{]\s*[-+]?$"), re.compile(r"\s*[\^\\\u00b2\u00b3\u00b9\u2070-\u2079]")

ScoreFunction = Callable[[list[str], list[str]], list[float]]


def exact_match(responses: list[str], answer: list[object]) -> list[float | None]:
    """Score 1 if the final answer is that of the column, except for case, spaces, and `.,;:` at its end."""
    return [_best(response, wanted, _is_equal) for response, wanted in zip(responses, answer, strict=True)]


def numeric_match(responses: list[str], answer: list[object]) -> list[float | None]:
    """Score 1 if the last number of the final answer equals that of the column: 1,000.0 equals 1000, and 1/2 equals .5.

    Fractions and units of LaTeX are read. There is no score if the column has no number, or has other LaTeX
    such as \\sqrt{2}.
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
    marks = [(mark.start(), mark[1]) for mark in _TAGGED.finditer(text)] + _boxed(text)
    marks = marks or [(mark.start(), mark[1]) for mark in _HASHES.finditer(text)]
    return max(marks, default=(0, text))[1].strip()


def _boxed(text: str) -> list[tuple[int, str]]:
    """Return the start and the content of each `\\boxed{...}` whose braces are balanced."""
    found: list[tuple[int, str]] = []
    opened: list[re.Match[str]] = []
    for brace in _BRACES.finditer(text):
        if brace[0] == "}" and opened:
            start = opened.pop()
            if len(start[0]) > 1:
                found.append((start.start(), text[start.end() : brace.start()]))
        elif brace[0].endswith("{") and brace[0] != "\\{":
            opened.append(brace)
    return found


def last_number(text: str) -> Fraction | None:
    """Return the last number in a text, or None; separators of thousands are left out.

    A number that is only a part of a term, such as the 10 of 2^10, the 2 of \\sqrt{2} or of 2\\pi, is not read.
    """
    text = _without_latex(text)
    found = list(_NUMBER.finditer(text))
    if not found:
        return None
    before, after = _PART_OF_A_TERM
    if before.search(text[: found[-1].start()][-20:]) or after.match(text, found[-1].end()):
        return None
    number, _, divisor = re.sub(r"[,\s]", "", found[-1][0]).replace("\u2212", "-").partition("/")
    try:
        return Fraction(number) / Fraction(divisor or 1)
    except (ValueError, ZeroDivisionError):  # thousands of digits, or a division by 0
        return None


def _without_latex(text: str) -> str:
    for pattern, plain in _LATEX:
        text = pattern.sub(plain, text)
    return text


def _best(response: str, wanted: object, equal: Callable[[str, str], float | None]) -> float | None:
    """Compare the final answer of a response with each that is right; None if nothing is known to be right."""
    texts = [text for one in (wanted if isinstance(wanted, list) else [wanted]) for text in _texts(one)]
    found = [equal(final_answer(response), final_answer(text)) for text in texts if text.strip()]
    return max((score for score in found if score is not None), default=None)


def _texts(value: object) -> list[str]:
    """Write a value of the column; files may hold a whole number as 72.0."""
    whole = [str(int(value))] if isinstance(value, float) and value.is_integer() else []
    return [] if value is None else [str(value), *whole]


def _is_equal(given: str, wanted: str) -> float:
    return float(_normalised(given) == _normalised(wanted))


def _normalised(text: str) -> str:
    """Fold case and spaces, and strip the end of a sentence; other signs count, as in .5, 5! and 2\u00b3."""
    plain = " ".join(text.casefold().split())
    return plain.rstrip(" .,;:") or plain


def _is_equal_number(given: str, wanted: str) -> float | None:
    right = None if re.search(r"[\\{^]", _without_latex(wanted)) else last_number(wanted)
    return None if right is None else float(last_number(given) == right)
