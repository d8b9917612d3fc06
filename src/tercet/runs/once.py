"""A step of a run, done once: what the pipelines of both domains do around each of theirs."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from tercet.runs.folder import RunFolder
from tercet.runs.progress import say

C = TypeVar("C")  # a domain's config
Steps = Mapping[str, Callable[[RunFolder, C], None]]  # in their order


def run_once(folder: RunFolder, config: C, name: str, steps: Steps[C], write_report: Callable[[Path], object]) -> None:
    """The step of that name, unless it is done, and the report of what there is, unless it stands already."""
    if folder.is_done(name):
        later = list(steps)[list(steps).index(name) :]
        say(f"{name}: done before; to do it again, remove {', '.join(later)} from {folder.path}")
    else:
        steps[name](folder, config)
    report, done = folder.path / "report.html", folder.path / name / "done.json"
    if not report.exists() or report.stat().st_mtime_ns < done.stat().st_mtime_ns:
        write_report(folder.path)
