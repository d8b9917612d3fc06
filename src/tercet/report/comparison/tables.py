"""What the pages of all comparisons show: the cost of each algorithm, its settings, and the folders of its runs."""

from collections.abc import Callable, Sequence

from tercet.config.ppo import SETTINGS
from tercet.report.blocks import Block, Cell, Headline, Prose, Table
from tercet.report.comparison.numbers import Measured, Outcome
from tercet.report.formats import duration, listed
from tercet.report.records import algorithm_title, find, number

Column = tuple[str, Callable[[Outcome], str]]  # its head, and the cell of an algorithm
NOTHING_YET = Headline("No run has been measured yet.", ["Repeat the command to continue."], "open")


def not_tuned(start: Measured) -> str:
    """Say which differences are not significant, and for which algorithm the settings were made."""
    made_for = algorithm_title(find(start.config, "ppo", "algorithm") or "ppo")
    return (
        "Differences within the intervals below, or no larger than those between seeds, are not significant. No "
        "algorithm was tuned for this comparison: each ran with the settings of the preset, which was made for "
        f"{made_for}."
    )


def seeds(found: Sequence[Outcome]) -> str:
    """Say how many seeds each algorithm has."""
    numbers = sorted({len(one.runs) for one in found})
    text = " to ".join(map(str, {numbers[0]: 0, numbers[-1]: 0}))
    return f"{text} seed{'s' if numbers[-1] > 1 else ''} of each"


def costs(found: Sequence[Outcome], caption: str, first: Column, last: Sequence[Column] = ()) -> Table:
    """Show what was sampled (`first`), the updates, the time and the memory, then the columns `last`."""
    columns: list[Column] = [
        first,
        ("updates", lambda one: count(one.mean(Measured.num_updates))),
        ("time", lambda one: duration(one.mean(Measured.seconds)) or "–"),
        ("peak GiB", lambda one: _gib(one.mean(Measured.peak_bytes))),
    ]
    if any(one.mean(Measured.gpu_peak_bytes) for one in found):
        columns.append(("peak GiB of the GPU", lambda one: _gib(one.mean(Measured.gpu_peak_bytes))))
    columns += last
    rows: list[list[Cell]] = [[algorithm_title(one.algorithm), *(cell(one) for _, cell in columns)] for one in found]
    return Table("What each cost", caption, ["", *(head for head, _ in columns)], rows, "l" + "r" * len(columns))


def never_trained(found: Sequence[Outcome]) -> list[Block]:
    """Name the runs that ended in the warm-up of their critic: their policy is the one that all start from."""
    names: list[str] = []
    for run in (run for one in found if one.algorithm == "ppo" for run in one.runs):
        updates, warmup = run.num_updates(), number(run.config, "ppo", "critic_warmup_updates")
        if updates is not None and warmup is not None and updates <= warmup:
            names.append(run.folder.name)
    why = "the budget ended within `ppo.critic_warmup_updates`, in which the actor is not trained"
    return [Prose(f"Never trained: {listed(names)}; {why}.")] if names else []


def settings(found: Sequence[Outcome]) -> Table:
    """Show what distinguishes PPO and its relatives, as their runs were configured."""
    keys = [key for key in SETTINGS["ppo"] if len({repr(SETTINGS[name][key]) for name in SETTINGS}) > 1]
    rows: list[list[Cell]] = [
        [algorithm_title(one.algorithm), *(str(find(one.runs[0].config, "ppo", key)) for key in keys)]
        for one in found
        if one.algorithm in SETTINGS
    ]
    caption = "What each algorithm sets, unless the command gave it."
    return Table("Settings", caption, ["", *keys], rows, "l" * (1 + len(keys)))


def folders(found: Sequence[Outcome]) -> Table:
    """Show the folder of each run."""
    rows: list[list[Cell]] = [[algorithm_title(one.algorithm), run.folder.name] for one in found for run in one.runs]
    return Table("Runs", "Folders of the runs, each with its report.", ["", "folder"], rows, "ll")


def count(value: float | None) -> str:
    """Format a number of updates, tokens or steps."""
    return f"{value:,.0f}" if value else "–"


def _gib(size: float | None) -> str:
    return f"{size / 2**30:.2f}" if size else "–"
