"""results.json: the results of a run, merged from those of its steps."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tercet.runs.atomic import write_text
from tercet.runs.integrity import Tree, read_json
from tercet.runs.rows import dump

FILE = "results.json"  # of the run, and in the folder of each step


def read_results(run: Path) -> Tree:
    """Return the contents of results.json; empty if there is none yet."""
    path = run / FILE
    return read_json(path, dict, "remove it and repeat the steps that wrote it") if path.exists() else {}


def add_results(run: Path, step: str, tree: Mapping[str, Any]) -> None:
    """Merge `tree` into the results of a step; a leaf replaces the one with the same keys."""
    (run / step).mkdir(exist_ok=True)
    _write(run / step, merged(read_results(run / step), tree))
    gather_results(run)


def put_results(run: Path, step: str, tree: Mapping[str, Any]) -> None:
    """Restore the results of a step from a checkpoint."""
    _write(run / step, tree)
    gather_results(run)


def drop_results(run: Path, step: str) -> None:
    """Remove the results of an earlier attempt at a step, except the times of work whose output is kept."""
    seconds = read_results(run / step).get("seconds", {})
    others = {name: value for name, value in seconds.items() if name != step}
    _write(run / step, {"seconds": others} if others else {})
    gather_results(run)


def gathered(run: Path) -> Tree:
    """Merge the results of all steps whose folders exist."""
    steps = sorted(file.parent for file in run.glob("*/done.json"))
    parts = sorted(file.parent for file in run.glob(f"*/{FILE}") if not file.parent.name.startswith("."))
    # a step of an earlier version has no results.json of its own, so its figures are in that of the run only
    tree = {} if set(steps) <= set(parts) else read_results(run)
    for part in parts:
        tree = merged(tree, read_results(part))
    return tree


def gather_results(run: Path) -> None:
    """Rewrite results.json from the results of the steps."""
    _write(run, gathered(run))


def _write(folder: Path, tree: Mapping[str, Any]) -> None:
    file, text = folder / FILE, dump(tree, indent=2, sort_keys=True) + "\n"
    if (tree or file.exists()) and not (file.exists() and file.read_bytes() == text.encode()):
        write_text(file, text)


def merged(old: Mapping[str, Any], new: Mapping[str, Any]) -> Tree:
    """Merge two trees; a leaf of the new one replaces the one with the same keys."""
    tree = dict(old)
    for key, value in new.items():
        branch = tree.get(key)
        if isinstance(branch, Mapping) and isinstance(value, Mapping):
            tree[key] = merged(branch, value)
        else:
            tree[key] = value
    return tree
