"""The last two checkpoints of a step; if the last is damaged, the one before it is used."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tercet.errors import FailedError
from tercet.runs.atomic import remove_folder, replace_folder
from tercet.runs.integrity import Tree, changed, digests_below, read_sealed, sealed
from tercet.runs.progress import say

LAST, BEFORE = "checkpoint", "checkpoint-before"
STATE = "state.json"


def save(step: Path, state: Mapping[str, Any], write: Callable[[Path], None]) -> None:
    """Write a checkpoint of `state` (JSON) and what `write(folder)` writes; keep the previous one as BEFORE."""
    remove_folder(step / BEFORE)  # first, so that there are never more than two on the disk

    def write_all(folder: Path) -> None:
        write(folder)
        (folder / STATE).write_text(sealed({**state, "files": digests_below(folder)}), encoding="utf-8")

    replace_folder(step / LAST, write_all, old=step / BEFORE)


def find(step: Path, check: Callable[[Tree], list[str]]) -> Tree | None:
    """Return the state of the last undamaged checkpoint; None if there is no checkpoint.

    `check(state)` returns a line for every file outside the checkpoint that does not match it. If the last checkpoint
    is damaged and the one before it is not, print a warning and remove the last. Raise FailedError if both are damaged.
    """
    damage: list[str] = []
    for folder in (step / LAST, step / BEFORE):
        if not folder.is_dir():
            continue
        try:
            state = read_sealed(folder / STATE)
        except FailedError as error:
            damage.append(str(error))
            continue
        if lines := changed(folder, state["files"]) + check(state):
            damage += lines
            continue
        for line in damage:
            say(f"{step.name}: {line}")
        if damage:
            say(f"{step.name}: the last checkpoint is damaged; continuing from the one before it")
            remove_folder(step / LAST)
        if folder.name == BEFORE:
            folder.rename(step / LAST)
        return state
    if damage:
        folders = " and ".join(str(step / name) for name in (LAST, BEFORE) if (step / name).is_dir())
        raise FailedError(
            "\n  ".join(damage) + f"\n  {step.name} has no undamaged checkpoint. Restore "
            f"the files; or remove {folders}, and give the same command to restart the step"
        )
    return None


def peek(step: Path) -> Tree:
    """Return the state of the last checkpoint whose state is readable, without checking its other files."""
    for folder in (step / LAST, step / BEFORE):
        if (folder / STATE).exists():
            try:
                return read_sealed(folder / STATE)
            except FailedError:
                continue
    return {}


def remove(step: Path) -> None:
    """Remove both checkpoints."""
    remove_folder(step / BEFORE)
    remove_folder(step / LAST)
