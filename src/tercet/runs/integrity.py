"""Detect damage to the files of a run: JSON files that contain their own SHA-256, and digests of other files."""

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
Digests = dict[str, str]  # relative path -> SHA-256

_computed: dict[tuple[int, int, int, int, int], str] = {}


def read_json(file: Path, kind: type[T], remedy: str = "") -> T:
    """Return the JSON value of a file; raise FailedError, ending with `remedy`, if it is not of that kind."""
    try:
        tree = json.loads(file.read_bytes().decode())
    except (OSError, ValueError, RecursionError) as error:
        raise damaged(file, first_line(error), remedy) from error
    if not isinstance(tree, kind):
        raise damaged(file, f"it contains a {type(tree).__name__}, not a {kind.__name__}", remedy)
    return tree


def damaged(file: Path, reason: str, remedy: str) -> FailedError:
    """Return the error for a damaged file."""
    return FailedError(f"{file}: damaged ({reason})" + (f"; {remedy}" if remedy else ""))


def sealed(tree: Mapping[str, Any], *, indent: int | None = None) -> str:
    """Return JSON with the SHA-256 of its contents as `sha256`."""
    return dump({**tree, SEAL: _content_digest(tree)}, indent=indent) + "\n"


def read_sealed(file: Path, remedy: str = "", *, since: Collection[str] = ()) -> Tree:
    """Return the contents of a file written by `sealed`; raise FailedError if they have changed.

    A file with none of the keys `since` was written by an earlier version, without a digest; it is returned unchecked.
    """
    tree = read_json(file, dict, remedy)
    if since and not tree.keys() & {SEAL, *since}:
        return tree
    if SEAL not in tree:
        raise damaged(file, f"it has no {SEAL} of its contents; was it written by an earlier version?", remedy)
    if tree.pop(SEAL) != _content_digest(tree):
        raise damaged(file, f"its contents do not match the {SEAL} in it", remedy)
    return tree


def digest(file: Path) -> str:
    """Return the SHA-256 of a file; a file is read again only if its size or time has changed."""
    now = file.stat()
    key = (now.st_dev, now.st_ino, now.st_size, now.st_mtime_ns, now.st_ctime_ns)
    if key not in _computed:
        with file.open("rb") as opened:
            _computed[key] = hashlib.file_digest(opened, "sha256").hexdigest()
    return _computed[key]


def digests_below(folder: Path, *, without: Collection[str] = ()) -> Digests:
    """Return the digest of every file below a folder, except entries in `without` and names that start with a dot."""
    names = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    ours = [name for name in names if name.parts[0] not in without and not any(part[0] == "." for part in name.parts)]
    return {str(name): digest(folder / name) for name in ours}


def changed(folder: Path, recorded: Mapping[str, str]) -> list[str]:
    """Return a line for every file below `folder` that differs from `recorded`: its name and the difference."""
    lines: list[str] = []
    for name, expected in recorded.items():
        try:
            if digest(folder / name) != expected:
                lines.append(f"{folder / name}: damaged or replaced (its SHA-256 differs from the recorded one)")
        except FileNotFoundError:
            lines.append(f"{folder / name}: missing")
        except OSError as error:
            lines.append(f"{folder / name}: cannot be read ({error.strerror})")
    return lines


def _content_digest(tree: Mapping[str, Any]) -> str:
    return hashlib.sha256(dump(tree).encode()).hexdigest()
