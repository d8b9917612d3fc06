"""Run each step once, for the pipelines of both domains."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from tercet.runs.atomic import remove_folder
from tercet.runs.folder import RunFolder
from tercet.runs.progress import say
from tercet.runs.ranks import share
from tercet.runs.step import finished_since, learned_from, refuse_changed_data

C = TypeVar("C")  # the config of a domain
Steps = Mapping[str, Callable[[RunFolder, C], None]]  # in their order


def is_up_to_date(folder: RunFolder, name: str, needed: Sequence[str]) -> bool:
    """Return True if the step is finished and the steps in `needed` have not been repeated since."""
    return share(lambda: folder.is_done(name) and not _newer(folder, name, needed))


def check_data(
    folder: RunFolder, config: C, names: Sequence[str], digests: Callable[[C, str], Mapping[str, str]]
) -> None:
    """Raise InputError if one of these steps has read other data than it would now."""
    started = share(lambda: [name for name in names if learned_from(folder.path, name)])
    now = {name: digests(config, name) for name in started}
    share(lambda: refuse_changed_data(folder.path, now))


def run_once(
    folder: RunFolder,
    config: C,
    name: str,
    steps: Steps[C],
    needed: Sequence[str],
    write_report: Callable[[Path], object],
) -> None:
    """Run the step unless it is finished, then write the report unless it is up to date.

    A finished step is repeated if a step that it depends on finished later. An unfinished step is restarted if a step
    that it depends on has not run: its pairs, scores or reference would come from a model that no longer exists.
    """
    ran = False
    if is_up_to_date(folder, name, needed):
        say(f"{name}: already done; to repeat it, remove {folder.path / name}")
    else:
        share(lambda: _drop_outdated(folder, name, needed))
        steps[name](folder, config)
        ran = True
    share(lambda: _report(folder, name, write_report))
    if ran:
        share(folder.end_of_step)


def _drop_outdated(folder: RunFolder, name: str, needed: Sequence[str]) -> None:
    """Remove the folder of the step, if it is older than one before it, and of unfinished steps after it."""
    if folder.is_done(name):
        say(f"{name}: older than {', '.join(_newer(folder, name, needed))}, so it is repeated")
        remove_folder(folder.path / name)
    for later in needed[needed.index(name) + 1 :] if name in needed else []:
        if (folder.path / later).is_dir() and not folder.has_ended(later):
            say(f"{later}: started before {name}, which runs now, so it is restarted")
            remove_folder(folder.path / later)


def _report(folder: RunFolder, name: str, write_report: Callable[[Path], object]) -> None:
    report, done = folder.path / "report.html", folder.path / name / "done.json"
    if not report.exists() or report.stat().st_mtime_ns < done.stat().st_mtime_ns:
        write_report(folder.path)


def _newer(folder: RunFolder, name: str, needed: Sequence[str]) -> list[str]:
    before = needed[: needed.index(name)] if name in needed else []
    return finished_since(folder.path, name, before)
