"""JSON that has one meaning: no name twice in an object, only finite numbers, no half of a character."""

import json
import math
from typing import Any

from tercet.strict_json import first_repeated


def loads(text: str | bytes) -> Any:  # Any: JSON
    """Parse JSON; ValueError where it is damaged, nested too deeply, or could be read in two ways."""
    try:
        decoded = text if isinstance(text, str) else text.decode()
        found = json.loads(decoded, object_pairs_hook=_distinct, parse_float=_finite, parse_constant=_finite)
        if r"\ud" in decoded.lower():
            json.dumps(found, ensure_ascii=False).encode()  # an escaped lone surrogate cannot be written again
        return found
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except UnicodeEncodeError:
        raise ValueError("a text holds half of a character, a lone surrogate") from None


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:  # Any: JSON
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = first_repeated(name for name, _ in pairs)
        raise ValueError(f"{twice!r} stands twice in one object")
    return found


def _finite(number: str) -> float:
    if not math.isfinite(float(number)):
        raise ValueError(f"{number} is no number that JSON and its readers agree on")
    return float(number)
