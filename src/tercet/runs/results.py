"""results.json: every figure of a run, merged in as the steps end."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tercet.errors import FailedError
from tercet.runs.atomic import write_text
from tercet.runs.rows import dump

Tree = dict[str, Any]  # Any: JSON, nested by the names that docs and report use


def read_results(run: Path) -> Tree:
    """What results.json holds; nothing where there is none yet."""
    path = run / "results.json"
    if not path.exists():
        return {}
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise FailedError(f"{path}: not JSON ({error}); remove it and run the steps again that filled it") from error


def merge_results(run: Path, tree: Mapping[str, Any]) -> None:
    """Merge `tree` into results.json, branch by branch; a leaf replaces the one of its name."""
    write_text(run / "results.json", dump(_merged(read_results(run), tree), indent=2, sort_keys=True) + "\n")


def _merged(old: Mapping[str, Any], new: Mapping[str, Any]) -> Tree:
    merged = dict(old)
    for key, value in new.items():
        branch = merged.get(key)
        if isinstance(branch, Mapping) and isinstance(value, Mapping):
            merged[key] = _merged(branch, value)
        else:
            merged[key] = value
    return merged
