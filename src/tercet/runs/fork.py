"""Begin a run with finished steps of another."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from tercet.runs import done
from tercet.runs.atomic import replace_folder
from tercet.runs.folder import RunFolder
from tercet.runs.results import gather_results
from tercet.runs.rows import copy_rows


def fork(source: Path, target: RunFolder, steps: Sequence[str]) -> None:
    """Give the open run `target` the finished steps of the run at `source`, with their rows, unless it has them.

    Files are hard links where the file system has them, since a run never changes a file in place. A copy that was
    interrupted is repeated. Raise FailedError if a file of these steps is damaged.
    """
    missing = [name for name in steps if not done.has_ended(target.path, name)]
    if not missing:
        return
    done.check(source, missing)
    for name in missing:
        for kind in done.ROWS:
            copy_rows(source / f"{kind}.jsonl", target.path / f"{kind}.jsonl", name)
        replace_folder(target.path / name, lambda folder, name=name: _link(source / name, folder))
    gather_results(target.path)


def _link(source: Path, target: Path) -> None:
    shutil.copytree(source, target, copy_function=_link_file, dirs_exist_ok=True)


def _link_file(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        shutil.copy2(source, target)
