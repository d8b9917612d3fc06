"""Read JSON files of a run; an error names the file and the remedy."""

import hashlib
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, TypeVar

from tercet.errors import FailedError, first_line
from tercet.runs.rows import dump

T = TypeVar("T")
Tree = dict[str, Any]  # Any: JSON, nested by the names that docs and report use
SEAL = "sha256"


def read_json(file: Path, kind: type[T], remedy: str = "") -> T:
    """Return the JSON value of a file; raise FailedError, ending with `remedy`, if it is not of that kind."""
    try:
        tree = json.loads(file.read_bytes().decode())
    except (OSError, ValueError, RecursionError) as error:
        raise damaged(file, first_line(error), remedy) from error
    if not isinstance(tree, kind):
        raise damaged(file, f"it holds a {type(tree).__name__} where a {kind.__name__} is meant", remedy)
    return tree


def damaged(file: Path, reason: str, remedy: str) -> FailedError:
    """Return the error for a damaged file."""
    return FailedError(f"{file}: damaged ({reason})" + (f"; {remedy}" if remedy else ""))


def sealed(tree: Mapping[str, Any], *, indent: int | None = None) -> str:
    """Return JSON with the SHA-256 of its contents as `sha256`."""
    return dump({**tree, SEAL: _digest(tree)}, indent=indent) + "\n"


def read_sealed(file: Path, remedy: str = "", *, since: Collection[str] = ()) -> Tree:
    """Return the contents of a file written by `sealed`; raise FailedError if they have changed.

    A file that has none of the keys `since` is one of an earlier version, which sealed nothing: it is taken as it is.
    """
    tree = read_json(file, dict, remedy)
    if since and not tree.keys() & {SEAL, *since}:
        return tree
    if SEAL not in tree:
        raise damaged(file, f"it holds no {SEAL} of its contents; did an earlier version write it?", remedy)
    if tree.pop(SEAL) != _digest(tree):
        raise damaged(file, f"its contents do not match the {SEAL} in it", remedy)
    return tree


def _digest(tree: Mapping[str, Any]) -> str:
    return hashlib.sha256(dump(tree).encode()).hexdigest()
