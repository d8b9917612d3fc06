"""`tercet arm data`: what demonstrations hold and what behaviour cloning would get of them; trains nothing."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tercet.arm.bc import demonstrations
from tercet.arm.demonstrations import idle, recordings
from tercet.arm.demonstrations.data import EXPERT, NONE, is_scripted, read_arrays
from tercet.arm.play.environments import opened
from tercet.arm.sim.units import ENVIRONMENT
from tercet.config.arm import ArmConfig, BcConfig
from tercet.errors import InputError
from tercet.runs.screen import screen

_MOST_NUMBERS = 60  # a step, that are shown one by one


@dataclass(frozen=True)
class Column:
    """One number of an observation or action, over all steps."""

    name: str
    mean: float
    std: float
    least: float
    most: float


@dataclass(frozen=True)
class Summary:
    """What a recording holds, and what in it should make one wary."""

    name: str
    made_in: str  # robot and task, as far as they are known
    lengths: tuple[int, ...]  # steps of each demonstration
    fps: float | None
    cameras: tuple[str, ...]
    num_duplicates: int  # demonstrations that are the same as an earlier one, number for number
    still: float  # share of steps after which nothing that is seen has moved
    num_idle: int  # of these steps, the ones before a demonstration's last movement
    action_units: str  # as the recording says
    missing: tuple[int, ...]  # frames that were lost within each demonstration, as far as its times tell
    success: float | None  # share of the demonstrations that succeeded, where that is known
    columns: tuple[Column, ...]


def run(config: ArmConfig, console: Console | None = None) -> None:
    """Print figures of the demonstrations in the config and each of their numbers.

    InputError where they cannot be read, or are not of this config's environment.
    """
    console = console or screen()
    source = config.bc.demonstrations
    if source == NONE:
        raise InputError("bc.demonstrations: none, so there is nothing to show; give a recording, or `expert`")
    summary = of_expert(config) if is_scripted(source) else of_recording(Path(source), config.bc)
    console.print(_figures(summary))
    console.print(_numbers(summary.columns))
    for warning in warnings(summary, config):
        console.print(Text(warning, style="yellow"))
    console.print(_fits(summary, config))


def of_recording(path: Path, config: BcConfig) -> Summary:
    """The figures of an .npz file or of a folder in LeRobot's format; InputError where it cannot be read."""
    found = read_arrays(path, config=config)
    observations, actions, lengths = found["observations"], found["actions"], found["lengths"]
    summary = _summary(path.name, str(found.get("env", "?")), observations, actions, lengths)
    summary = replace(summary, action_units=str(found.get("action_units", "not said")))
    if not path.is_dir():
        return summary
    about = recordings.about(path, task=config.task)
    columns = tuple(replace(column, name=name) for column, name in zip(summary.columns, about.names, strict=True))
    missing = tuple(found["missing"].tolist())
    return replace(
        summary, missing=missing, made_in=about.made_in, fps=about.fps, cameras=about.cameras, columns=columns
    )


def of_expert(config: ArmConfig) -> Summary:
    """The figures of what the scripted expert shows in this config's environment."""
    with opened(config, config.bc.num_demonstrations) as env:
        found = demonstrations(config, env)
    lengths = found.mask.sum(1).numpy()
    summary = _summary(EXPERT, config.env, found.observations.numpy(), found.actions.numpy(), lengths)
    return summary if found.success is None else replace(summary, success=float(found.success.float().mean()))


def warnings(summary: Summary, config: ArmConfig) -> list[str]:
    """What one should look at before learning from it, a line each."""
    found: list[str] = []
    if summary.num_duplicates:
        found.append(f"copies of earlier demonstrations, which teach nothing new: {summary.num_duplicates}")
    idle_share = summary.num_idle / sum(summary.lengths)
    if idle_share > 0.1 and not config.bc.cut_idle:
        found.append(
            f"in {idle_share:.0%} of the steps nothing moves, though something does later; a clone learns to wait "
            "there: bc.cut_idle=true leaves them out"
        )
    if any(summary.missing):
        found.append(
            f"frames are missing inside of {sum(map(bool, summary.missing))} demonstrations, {sum(summary.missing)} "
            "in all: time jumps there, and what is learned takes it for one step"
        )
    odd = [column.name for column in summary.columns if not np.isfinite(column.mean)]
    if odd:
        found.append(f"holds numbers that are not finite, and bc would refuse it: {', '.join(odd)}")
    frozen = [column.name for column in summary.columns if column.least == column.most]
    if frozen:
        found.append(f"never changes: {', '.join(frozen)}")
    too_long = sum(length > config.horizon for length in summary.lengths)
    if too_long:
        found.append(f"demonstrations longer than an episode of this run (horizon={config.horizon}): {too_long}")
    if summary.success is not None and summary.success < 1.0:
        found.append(f"{1 - summary.success:.0%} of the demonstrations did not succeed")
    return found


def _summary(name: str, made_in: str, observations: NDArray, actions: NDArray, lengths: NDArray) -> Summary:
    episodes = [
        (seen[:length], done[:length]) for seen, done, length in zip(observations, actions, lengths, strict=True)
    ]
    seen, done = (np.concatenate(part).astype(np.float64) for part in zip(*episodes, strict=True))
    return Summary(
        name=name,
        made_in=made_in,
        lengths=tuple(int(length) for length in lengths),
        fps=None,
        cameras=(),
        num_duplicates=len(episodes) - len({(a.tobytes(), b.tobytes()) for a, b in episodes}),
        still=float(np.concatenate(idle.standing([seen for seen, _ in episodes])).mean()),
        num_idle=len(seen) - sum(map(len, idle.moving([one for one, _ in episodes]))),
        action_units="scaled",
        missing=(),
        success=None,
        columns=(*_columns("observation", seen), *_columns("action", done)),
    )


def _columns(name: str, values: NDArray) -> list[Column]:
    figures = (values.mean(0), values.std(0), values.min(0), values.max(0))
    return [Column(f"{name} {number}", *map(float, of)) for number, of in enumerate(zip(*figures, strict=True))]


def _figures(summary: Summary) -> Table:
    table = Table(title="what the demonstrations hold", title_justify="left", show_header=False)
    table.add_column()
    table.add_column(overflow="fold")
    lengths = summary.lengths
    rows = {
        "from": summary.name,
        "robot or task": summary.made_in,
        "demonstrations": str(len(lengths)),
        "steps: fewest / middle / most": f"{min(lengths)} / {median(lengths):.0f} / {max(lengths)}",
        "seconds in all": f"{sum(lengths) / summary.fps:.0f}" if summary.fps else "-",
        "cameras": ", ".join(summary.cameras) or "-",
        "units of actions": summary.action_units,
        "copies": str(summary.num_duplicates),
        "still": f"{summary.still:.0%} of the steps, {summary.num_idle} before the last movement",
        "succeeded": "-" if summary.success is None else f"{summary.success:.0%}",
    }
    for name, value in rows.items():
        table.add_row(name, Text(value))
    return table


def _numbers(columns: Sequence[Column]) -> Table:
    table = Table(title="each number of a step", title_justify="left")
    for head in ("", "mean", "deviation", "least", "most"):
        table.add_column(head, justify="right" if head else "left")
    for column in columns[:_MOST_NUMBERS]:
        figures = (column.mean, column.std, column.least, column.most)
        table.add_row(Text(column.name), *(f"{figure:.5g}" for figure in figures))
    if len(columns) > _MOST_NUMBERS:
        table.add_row(f"and {len(columns) - _MOST_NUMBERS} more")
    return table


def _fits(summary: Summary, config: ArmConfig) -> Text:
    """What behaviour cloning would learn from, or why it could not."""
    num, there = config.bc.num_demonstrations, len(summary.lengths)
    rows, more = sum(summary.lengths[:num]), [f"{there - num} are left out"] if there > num else []
    if summary.name != EXPERT:
        try:
            with opened(config, 1) as env:
                found = demonstrations(config, env)
        except InputError as error:
            return Text(f"bc cannot be run on this in env={config.env}: {error}", style="yellow")
        if config.bc.cut_idle:
            more.append(f"{rows - int(found.mask.sum())} idle steps are cut out")
            rows = int(found.mask.sum())
        if found.recorded_in == ENVIRONMENT:
            more.append("actions are in the environment's own units, and are scaled to [-1, 1]")
    what = f"bc would learn from {num} demonstrations, {rows} steps, {config.bc.epochs} times"
    return Text("; ".join([what, *more]), style="green")
