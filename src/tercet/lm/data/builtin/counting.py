"""The built-in data set `counting`: "Count from 7 to 10." with the answer "7, 8, 9, 10".

A small task whose answers can be checked: `tercet.lm.preferences.verify:exact_match` compares them with the column
`answer`. Everything is made here; no package and no file is needed.
"""

import json
from collections.abc import Collection

from tercet.lm.data.cells import EVERY
from tercet.lm.data.examples import Example, Message

_LAST_START = 95  # so that no number has three digits
_LENGTHS = (3, 4, 5)  # how many numbers are counted


def read_counting(name: str, *, columns: Collection[str] = ()) -> list[Example]:
    """Return every question with its answer, which is also the column `answer`; locations are `counting[number]`."""
    examples: list[Example] = []
    for start in range(1, _LAST_START + 1):
        for length in _LENGTHS:
            numbers = range(start, start + length)
            question, answer = f"Count from {numbers[0]} to {numbers[-1]}.", ", ".join(map(str, numbers))
            extra = json.dumps({"answer": answer}) if "answer" in columns or EVERY in columns else ""
            location = f"counting[{len(examples)}]"
            examples.append(Example((Message("user", question),), answer, None, name, location, extra=extra))
    return examples
