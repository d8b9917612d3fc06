"""JSON read strictly: each name once in an object, finite numbers, bounded depth.

`parse` reads files that people write, and names the place in every error. It accepts NaN, which pandas and Python write
for a missing value. `loads` reads what programs send or save, and also refuses NaN and lone surrogates.
"""

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tercet.errors import InputError, first_line

MOST_LEVELS = 100  # of nested objects and lists; real data has fewer than ten


class _RefusedError(ValueError):
    """A value that other JSON readers would accept; the message does not name the place yet."""


def parse(text: str, place: str) -> object:
    """Return the value of a whole text; raise InputError with the place, or `place:line` after the first line."""
    value, end = parse_first(text, place)
    if end < len(text):
        error = json.JSONDecodeError("Extra data", text, end)
        raise _syntax_error(error, place) from error
    return value


def parse_first(text: str, place: str) -> tuple[object, int]:
    """Return the first value of a text, and the index of the next character that is not white space."""
    start = len(text) - len(text.lstrip(" \t\n\r"))
    try:
        value, end = _DECODER.raw_decode(text, start)
    except json.JSONDecodeError as error:
        raise _syntax_error(error, place) from error
    except _RefusedError as error:
        raise InputError(f"{place}: {error}") from error
    except RecursionError as error:
        raise InputError(_too_deep(place)) from error
    except ValueError as error:  # Python's limit on the digits of an integer
        raise InputError(
            f"{place}: contains a number with thousands of digits; write a shorter one, or a text"
        ) from error
    if text.count("[") + text.count("{") > MOST_LEVELS and _num_levels(value) > MOST_LEVELS:
        raise InputError(_too_deep(place))
    return value, len(text) - len(text[end:].lstrip(" \t\n\r"))


def loads(text: str | bytes) -> Any:  # Any: JSON
    """Parse JSON; raise ValueError if it is damaged, nested too deeply or ambiguous."""
    try:
        decoded = text if isinstance(text, str) else text.decode()
        value = json.loads(
            decoded, object_pairs_hook=_without_repeats, parse_float=_finite_only, parse_constant=_finite_only
        )
        if r"\ud" in decoded.lower():
            json.dumps(value, ensure_ascii=False).encode()  # an escaped lone surrogate cannot be written again
        return value
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except UnicodeEncodeError:
        raise ValueError("a text contains half of a character (a lone surrogate)") from None


def read_object(file: Path, remedy: str) -> dict[str, Any]:  # Any: JSON
    """Read the JSON object that a program saved in a file. InputError, ending with `remedy`, if it holds none."""
    try:
        tree = loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: cannot be read ({first_line(error)}); {remedy}") from error
    if not isinstance(tree, dict):
        raise InputError(f"{file}: holds {type(tree).__name__}, not an object; {remedy}")
    return tree


def first_repeated(names: Iterable[str]) -> str | None:
    """Return the first name that occurs a second time, or None."""
    earlier: set[str] = set()
    for name in names:
        if name in earlier:
            return name
        earlier.add(name)
    return None


def _syntax_error(error: json.JSONDecodeError, place: str) -> InputError:
    where = place if error.lineno == 1 else f"{place}:{error.lineno}"
    return InputError(f"{where}: invalid JSON ({error.msg}, column {error.colno}); fix or remove the line")


def _too_deep(place: str) -> str:
    return f"{place}: contains lists or objects nested deeper than {MOST_LEVELS} levels; flatten them"


def _num_levels(value: object) -> int:
    """Return how deep lists and objects are nested, without recursion."""
    levels, current = 0, [value]
    while current := [one for one in current if isinstance(one, dict | list)]:
        levels += 1
        current = [inner for one in current for inner in (one.values() if isinstance(one, dict) else one)]
    return levels


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:  # Any: JSON
    """Return the object with these pairs; refuse a name that is given twice."""
    tree = dict(pairs)
    if len(tree) < len(pairs):
        twice = first_repeated(name for name, _ in pairs)
        raise _RefusedError(f"the name {twice!r:.60} is given twice in one object; keep one")
    return tree


def _constant(name: str) -> float:
    if name != "NaN":
        raise _RefusedError(f"{name} is not a finite number; write a finite one, or null")
    return math.nan


def _finite(digits: str) -> float:
    value = float(digits)
    if math.isinf(value):
        raise _RefusedError(f"{digits[:40]} is too large for a number; write a smaller one, or null")
    return value


def _finite_only(number: str) -> float:
    if not math.isfinite(float(number)):
        raise _RefusedError(f"{number} is not a finite number")
    return float(number)


_DECODER = json.JSONDecoder(object_pairs_hook=_without_repeats, parse_constant=_constant, parse_float=_finite)
