"""Read single values of a row: nested columns, text, JSON for score functions; and how messages show them."""

import json
from collections.abc import Callable, Collection, Mapping
from itertools import islice
from typing import Any, TypeVar

from tercet.config.allowed import printable
from tercet.errors import InputError, first_line
from tercet.lm.data.turns import UnusableRowError, is_null, text_of

Row = Mapping[str, Any]  # Any: whatever the file holds
Read = TypeVar("Read")
Unread = dict[str, None]  # an ordered set of names
EVERY = "*"  # among the names of columns for score functions: all that a row has
MISSING = object()  # the value of a column that a row does not have
_MOST_LISTED = 20  # columns in one message


def as_json(value: Any) -> Any:  # Any: whatever the file holds, and JSON
    """Return a value as JSON has it, NaN as null; InputError if JSON cannot express it."""
    try:
        text = json.dumps(None if is_null(value) else value, ensure_ascii=False, allow_nan=False)
        text.encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(
            f"JSON cannot express {shown(value)} ({first_line(error)}), so no function can take it; "
            "save the column as text, number, list or mapping"
        ) from error
    return json.loads(text)


def is_empty(value: object) -> bool:
    """Return True for a value that says nothing."""
    return is_null(value) or value in ("", [], {})


def nested(row: Row, column: str) -> Any:  # Any: whatever the file holds
    """Return the value of a column, or of a field `a.b`; MISSING if the row has none."""
    if column in row:
        return row[column]
    value: Any = row
    for name in column.split("."):
        if not isinstance(value, Mapping) or name not in value:
            return MISSING
        value = value[name]
    return value


def value_of(row: Row, mapping: Mapping[str, str], key: str) -> Any:  # Any: whatever the file holds
    """Return the value of the column that `key` is mapped to, text cleaned; None without such a column."""
    column = mapping.get(key)
    if column is None:
        return None
    value = nested(row, column)
    if value is MISSING:
        raise InputError(f"no column {column!r}, which data.columns gives for {key}; there are {listed(row)}")
    return in_column(column, text_of, value) if isinstance(value, str) else value


def in_column(column: str | None, convert: Callable[..., Read], *given: object) -> Read:
    """Convert a column's value; an InputError names the column."""
    try:
        return convert(*given)
    except UnusableRowError:
        raise
    except InputError as error:
        raise InputError(f"column {column}: {error}") from error


def shown(value: object) -> str:
    """Format a value for a message; Python refuses to write integers of thousands of digits."""
    try:
        return f"{value!r:.40}"
    except ValueError:
        return "a number of thousands of digits"


def listed(names: Collection[str]) -> str:
    """Names of columns as a message shows them: the first of many, on one line."""
    first = ", ".join(printable(name) or "''" for name in islice(names, _MOST_LISTED))
    more = len(names) - _MOST_LISTED
    return f"{first} and {more} more" if more > 0 else first or "none"
