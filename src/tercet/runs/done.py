"""Finished steps: done.json, and checks that their files are unchanged."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tercet.errors import FailedError
from tercet.runs import checkpoints
from tercet.runs.atomic import clean_leftovers, write_text
from tercet.runs.integrity import Digests, Tree, changed, damaged, digests_below, read_sealed, sealed
from tercet.runs.progress import say_once
from tercet.runs.rows import tallies

FILE = "done.json"
ROWS = ("metrics", "samples", "timings")  # JSONL files of the run


def has_ended(run: Path, name: str) -> bool:
    """Return True if the step is finished, without checking its files."""
    return (run / name / FILE).exists()


def is_done(run: Path, name: str) -> bool:
    """Return True if the step is finished; raise FailedError if one of its files is damaged."""
    if not has_ended(run, name):
        return False
    check(run, [name])
    return True


def ended(run: Path) -> list[str]:
    """Return the names of all finished steps."""
    return sorted(file.parent.name for file in run.glob(f"*/{FILE}") if not file.parent.name.startswith("."))


def mark(run: Path, name: str, info: Mapping[str, Any], *, beside: Sequence[str]) -> None:
    """Write done.json: `info` and the digest of every file in the step's folder and in the folders `beside` it."""
    files = {
        f"{folder}/{file}": value
        for folder in (name, *beside)
        for file, value in digests_below(run / folder, without=(checkpoints.LAST, checkpoints.BEFORE)).items()
    }
    write_text(run / name / FILE, sealed({**info, "files": files}, indent=1))


def read(run: Path, name: str) -> Tree:
    """Return the contents of done.json; raise FailedError if it is damaged."""
    return _read(run, name, f"remove {run / name} to repeat the step")


def _read(run: Path, name: str, remedy: str) -> Tree:
    file = run / name / FILE
    tree = read_sealed(file, remedy, since=("files", "rows"))
    if "files" in tree:
        return tree
    if not all(isinstance(tree.get(key, {}), dict) for key in ("after", "data")):
        raise damaged(file, "a value in it has the wrong type", remedy)
    say_once(f"{run / name}: finished by an earlier version, which stored no digests; its files are used unchecked")
    return tree


def check(run: Path, names: Sequence[str], *, made: bool = True) -> None:
    """Raise FailedError with every damaged file of these steps: results, rows and, if `made`, their other files."""
    problems = {name: lines for name in names if (lines := _problems(run, name, made))}
    if problems:
        lines = [f"  {line}" for lines in problems.values() for line in lines]
        folders = ", ".join(str(run / name) for name in problems)
        raise FailedError(
            f"{run}: files of finished steps have changed:\n" + "\n".join(lines) + "\n"
            f"  Restore the files; or remove {folders}, and give the same command to repeat these steps"
        )


def check_made(folder: Path) -> None:
    """Raise FailedError if this folder of a finished step, such as its model, is damaged."""
    step = folder.resolve().parent
    if not has_ended(step.parent, step.name):
        return
    prefix = f"{step.name}/{folder.resolve().name}/"
    digests: Digests = read(step.parent, step.name).get("files", {})
    lines = changed(step.parent, {file: value for file, value in digests.items() if file.startswith(prefix)})
    if lines:
        raise FailedError("\n  ".join([*lines, f"restore it, or remove {step} and repeat this step"]))


def rows_problems(run: Path, name: str, counts: Mapping[str, Mapping[str, Any]], *, whole: bool) -> list[str]:
    """Return a line for every JSONL file whose first rows of the step (all, if `whole`) differ from the tally."""
    lines: list[str] = []
    for kind, expected in counts.items():
        file = run / f"{kind}.jsonl"
        actual = tallies(file, {} if whole else {name: expected["num"]})[name].as_json()
        if actual["num"] != expected["num"]:
            lines.append(f"{file}: has {actual['num']} rows of {name}, but {expected['num']} were written")
        elif actual != expected:
            lines.append(f"{file}: the rows of {name} are damaged or from another run")
    return lines


def clean(run: Path) -> None:
    """Remove files that a kill at the end of `Step.finish` leaves; a finished step is not entered again."""
    for name in ended(run):
        clean_leftovers(run / name)
        checkpoints.remove(run / name)


def _problems(run: Path, name: str, made: bool) -> list[str]:
    try:
        known = _read(run, name, remedy="")  # `check` gives one remedy for all
    except FailedError as error:
        return [str(error)]
    files = known.get("files", {})
    checked = files if made else {file: value for file, value in files.items() if file == f"{name}/results.json"}
    return changed(run, checked) + rows_problems(run, name, known.get("rows", {}), whole=True)
