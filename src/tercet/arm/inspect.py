"""`tercet arm data`: show what demonstrations hold and what behaviour cloning would learn from; train nothing."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tercet.arm.bc import load_demonstrations
from tercet.arm.demonstrations import idle, recordings
from tercet.arm.demonstrations.data import EXPERT, NONE, Demonstrations, is_scripted, read_arrays, recording_of
from tercet.arm.play.environments import EnvFactory
from tercet.arm.sim.units import ENVIRONMENT
from tercet.config.arm import ArmConfig, BcConfig
from tercet.errors import InputError
from tercet.runs.screen import screen

_MAX_COLUMNS = 60  # numbers of a step that are shown


@dataclass(frozen=True)
class Column:
    """Statistics of one number of an observation or action over all steps."""

    name: str
    mean: float
    std: float
    minimum: float
    maximum: float


@dataclass(frozen=True)
class Summary:
    """Figures of a set of demonstrations."""

    name: str
    made_in: str  # robot and task, if known
    lengths: tuple[int, ...]  # steps of each demonstration
    fps: float | None
    cameras: tuple[str, ...]
    num_duplicates: int  # demonstrations that equal an earlier one
    still: float  # share of steps after which the observation is the same
    num_idle: int  # number of still steps before the last movement of their demonstration
    action_units: str  # as stated in the recording
    missing: tuple[int, ...]  # frames lost within each demonstration, by the recorded times
    success: float | None  # share of the demonstrations that succeeded, if known
    columns: tuple[Column, ...]


def run(config: ArmConfig, console: Console | None = None) -> None:
    """Print figures of the demonstrations of the config, and statistics of each of their numbers.

    InputError if they cannot be read.
    """
    console = console or screen()
    source = config.bc.demonstrations
    if source == NONE:
        raise InputError("bc.demonstrations: is none, so there is nothing to show; give a recording or `expert`")
    envs = EnvFactory.of(config)
    if is_scripted(source):
        with envs.open(config.bc.num_demonstrations) as env:
            demonstrations = load_demonstrations(config, env)
        summary = of_expert(demonstrations, config.env)
    else:
        summary, demonstrations = of_recording(recording_of(config.bc), config.bc), None
    console.print(_figures(summary))
    console.print(_numbers(summary.columns))
    for warning in warnings(summary, config.bc, config.horizon):
        console.print(Text(warning, style="yellow"))
    if demonstrations is None:
        try:
            with envs.open(1) as env:
                demonstrations = load_demonstrations(config, env)
        except InputError as error:
            console.print(Text(f"bc cannot learn from this in env={config.env}: {error}", style="yellow"))
            return
    console.print(_amounts(summary, demonstrations, config.bc))


def of_recording(path: Path, config: BcConfig) -> Summary:
    """Summarise an .npz file or a folder in LeRobot's format; InputError if it cannot be read."""
    arrays = read_arrays(path, config=config)
    observations, actions, lengths = arrays["observations"], arrays["actions"], arrays["lengths"]
    summary = _summary(path.name, str(arrays.get("env", "?")), observations, actions, lengths)
    summary = replace(summary, action_units=str(arrays.get("action_units", "not stated")))
    if not path.is_dir():
        return summary
    description = recordings.describe(path, task=config.task)
    named = zip(summary.columns, description.names, strict=True)
    return replace(
        summary,
        missing=tuple(arrays["missing"].tolist()),
        made_in=description.made_in,
        fps=description.fps,
        cameras=description.cameras,
        columns=tuple(replace(column, name=name) for column, name in named),
    )


def of_expert(demonstrations: Demonstrations, env_name: str) -> Summary:
    """Summarise demonstrations of the scripted expert."""
    lengths, success = demonstrations.mask.sum(1).numpy(), demonstrations.success
    observations, actions = demonstrations.observations.numpy(), demonstrations.actions.numpy()
    summary = _summary(EXPERT, env_name, observations, actions, lengths)
    return summary if success is None else replace(summary, success=float(success.float().mean()))


def warnings(summary: Summary, config: BcConfig, horizon: int) -> list[str]:
    """Return a line for each problem that would affect behaviour cloning."""
    lines: list[str] = []
    if summary.num_duplicates:
        lines.append(f"demonstrations that equal earlier ones: {summary.num_duplicates}")
    idle_share = summary.num_idle / sum(summary.lengths)
    if idle_share > 0.1 and not config.cut_idle:
        lines.append(
            f"in {idle_share:.0%} of the steps nothing moves until a later movement; a clone learns to wait there: "
            "bc.cut_idle=true removes them"
        )
    if any(summary.missing):
        lines.append(
            f"frames are missing inside of {sum(map(bool, summary.missing))} demonstrations, {sum(summary.missing)} "
            "in all: each gap is learned as one step"
        )
    not_finite = [column.name for column in summary.columns if not np.isfinite(column.mean)]
    if not_finite:
        lines.append(f"contains numbers that are not finite, which bc refuses: {', '.join(not_finite)}")
    constant = [column.name for column in summary.columns if column.minimum == column.maximum]
    if constant:
        lines.append(f"never changes: {', '.join(constant)}")
    too_long = sum(length > horizon for length in summary.lengths)
    if too_long:
        lines.append(f"demonstrations longer than an episode of this run (horizon={horizon}): {too_long}")
    if summary.success is not None and summary.success < 1.0:
        lines.append(f"{1 - summary.success:.0%} of the demonstrations did not succeed")
    return lines


def _summary(name: str, made_in: str, observations: NDArray, actions: NDArray, lengths: NDArray) -> Summary:
    episodes = [
        (states[:length], done[:length]) for states, done, length in zip(observations, actions, lengths, strict=True)
    ]
    all_states, all_actions = (np.concatenate(part).astype(np.float64) for part in zip(*episodes, strict=True))
    return Summary(
        name=name,
        made_in=made_in,
        lengths=tuple(int(length) for length in lengths),
        fps=None,
        cameras=(),
        num_duplicates=len(episodes) - len({(a.tobytes(), b.tobytes()) for a, b in episodes}),
        still=float(np.concatenate(idle.still_steps([states for states, _ in episodes])).mean()),
        num_idle=len(all_states) - sum(map(len, idle.moving_steps([states for states, _ in episodes]))),
        action_units="scaled",
        missing=(),
        success=None,
        columns=(*_columns("observation", all_states), *_columns("action", all_actions)),
    )


def _columns(name: str, values: NDArray) -> list[Column]:
    figures = (values.mean(0), values.std(0), values.min(0), values.max(0))
    return [Column(f"{name} {number}", *map(float, of)) for number, of in enumerate(zip(*figures, strict=True))]


def _figures(summary: Summary) -> Table:
    table = Table(title="demonstrations", title_justify="left", show_header=False)
    table.add_column()
    table.add_column(overflow="fold")
    lengths = summary.lengths
    rows = {
        "from": summary.name,
        "robot or task": summary.made_in,
        "demonstrations": str(len(lengths)),
        "steps: min / median / max": f"{min(lengths)} / {median(lengths):.0f} / {max(lengths)}",
        "total seconds": f"{sum(lengths) / summary.fps:.0f}" if summary.fps else "-",
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
    table = Table(title="numbers of a step", title_justify="left")
    for head in ("", "mean", "deviation", "min", "max"):
        table.add_column(head, justify="right" if head else "left")
    for column in columns[:_MAX_COLUMNS]:
        figures = (column.mean, column.std, column.minimum, column.maximum)
        table.add_row(Text(column.name), *(f"{figure:.5g}" for figure in figures))
    if len(columns) > _MAX_COLUMNS:
        table.add_row(f"and {len(columns) - _MAX_COLUMNS} more")
    return table


def _amounts(summary: Summary, demonstrations: Demonstrations, config: BcConfig) -> Text:
    """Say how much behaviour cloning would learn from."""
    num, total = config.num_demonstrations, len(summary.lengths)
    rows, remarks = sum(summary.lengths[:num]), [f"{total - num} are left out"] if total > num else []
    if summary.name != EXPERT:
        if config.cut_idle:
            num_kept = int(demonstrations.mask.sum())
            remarks.append(f"{rows - num_kept} idle steps are cut out")
            rows = num_kept
        if demonstrations.recorded_in == ENVIRONMENT:
            remarks.append("actions are in the environment's own units, and are scaled to [-1, 1]")
    amounts = f"bc would learn from {num} demonstrations, {rows} steps, for {config.epochs} epochs"
    return Text("; ".join([amounts, *remarks]), style="green")
