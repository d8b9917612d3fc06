"""Plan the rows of every optimizer step of a supervised step before it starts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal, TypeVar

import torch

from tercet.config.fit import FitConfig
from tercet.config.lm import DataConfig
from tercet.config.section import MOST_ROWS
from tercet.errors import InputError
from tercet.lm.data.examples import Example, Message
from tercet.lm.data.splits import StepName, flat, weights_of
from tercet.train.chance import generator

T = TypeVar("T")

_WINDOW = 16  # batches that are sorted by length together: little padding, in a mostly random order


@dataclass(frozen=True)
class Plan:
    """`rows[i]` are the rows of optimizer step i, numbered over the concatenated sets, shortest first.

    If rows are grouped, `plan` numbers the groups instead of the rows.

    `stages` has the last optimizer step of each stage: (index of the step, name of the set or `mixed`).
    """

    rows: list[list[int]]
    stages: list[tuple[int, str]]


def plan(
    lengths_by_set: Mapping[str, Sequence[int]],
    *,
    weights: Mapping[str, float],
    order: Literal["mixed", "sequential"],
    batch_size: int,
    epochs: int,
    max_steps: int,
    generator: torch.Generator,
    sizes_by_set: Mapping[str, Sequence[int]] | None = None,
) -> Plan:
    """Assign the rows of all sets to optimizer steps; the rows of a batch have similar lengths.

    A row may stand for a group of rows, which are not separated; `sizes_by_set` has their numbers. A batch then holds
    as many groups as have at most `batch_size` rows.

    `mixed`: an epoch has `weight` times the rows of each set (each row once for weight 1, half of them for 0.5)
    in one shuffled stream. `sequential`: all epochs of the first set, then of the second. The last batch of an epoch
    may be smaller. With `max_steps` above 0 the plan is cut, sequential sets in proportion, each to at least one step.
    """
    lengths = [length for of_set in lengths_by_set.values() for length in of_set]
    sizes = [size for of_set in sizes_by_set.values() for size in of_set] if sizes_by_set else [1] * len(lengths)
    rows_of = _rows_of(lengths_by_set)
    if order == "mixed":
        rows = []
        for _ in range(epochs):
            taken = mixed_pass(lengths_by_set, weights, generator)
            rows += _batches(taken, lengths, sizes, batch_size, generator)
            if max_steps and len(rows) >= max_steps:
                break
        rows = rows[:max_steps] if max_steps else rows
        return Plan(rows, [(len(rows) - 1, next(iter(rows_of)) if len(rows_of) == 1 else "mixed")] if rows else [])
    parts = {
        name: [
            batch
            for _ in range(epochs)
            for batch in _batches(_shuffled(list(of_set), generator), lengths, sizes, batch_size, generator)
        ]
        for name, of_set in rows_of.items()
        if of_set
    }
    return _one_after_another(parts, max_steps)


@dataclass(frozen=True)
class Lessons:
    """The concatenated examples of all training sets, and the plan of optimizer steps."""

    examples: list[Example]
    plan: Plan


def lessons(
    sets: Mapping[str, list[Example]],
    data: DataConfig,
    fit: FitConfig,
    *,
    step: StepName,
    seed: int,
    group_prompts: bool = False,
    section: str = "",
) -> Lessons:
    """Plan the training of a supervised step; lengths are measured in characters.

    `section` is the config's name of `fit`, if it is another than that of the data's step.

    With `group_prompts`, all rows of a prompt are in one optimizer step, up to `batch_size` (Ouyang et al. 2022, sec.
    3.5): responses that are in several pairs are then computed once.
    """
    groups = {name: _groups(rows, fit.batch_size if group_prompts else 1) for name, rows in sets.items()}
    lengths = {
        name: [max(_length(sets[name][i]) for i in group) for group in of_set] for name, of_set in groups.items()
    }
    weights = weights_of(data, step)
    num_rows = fit.epochs * sum(max(1.0, weights[name]) * len(rows) for name, rows in sets.items())
    if num_rows > MOST_ROWS * 10 and not (fit.max_steps and data.order == "mixed"):
        raise InputError(
            f"{section or step}.epochs={fit.epochs}: {num_rows:.0f} examples in all, more than {MOST_ROWS * 10} are "
            "not planned; lower it, or the weights of the sets"
        )
    by_group = plan(
        lengths,
        weights=weights,
        order=data.order,
        batch_size=fit.batch_size,
        epochs=fit.epochs,
        max_steps=fit.max_steps,
        generator=generator(seed, section or step, "plan"),
        sizes_by_set={name: list(map(len, of_set)) for name, of_set in groups.items()},
    )
    starts = _rows_of(sets)
    rows_of = [[starts[name][i] for i in group] for name, of_set in groups.items() for group in of_set]
    rows = [[row for group in batch for row in rows_of[group]] for batch in by_group.rows]
    return Lessons(flat(sets), Plan(rows, by_group.stages))


def _length(example: Example) -> int:
    return len(example.prompt) + max(len(example.chosen), len(example.rejected or ""))


def _groups(examples: Sequence[Example], largest: int) -> list[list[int]]:
    """Group the rows of each prompt, in the order of their first rows; larger groups are split."""
    if largest == 1:
        return [[row] for row in range(len(examples))]
    by_prompt: dict[tuple[Message, ...], list[int]] = {}
    for row, example in enumerate(examples):
        by_prompt.setdefault(example.messages, []).append(row)
    return [rows[i : i + largest] for rows in by_prompt.values() for i in range(0, len(rows), largest)]


def mixed_pass(
    sets: Mapping[str, Sequence[object]], weights: Mapping[str, float], generator: torch.Generator
) -> list[int]:
    """Return the shuffled rows of one pass over all sets, with `weight` times the rows of each set."""
    rows = [row for name, of_set in _rows_of(sets).items() for row in _share(of_set, weights[name], generator)]
    return _shuffled(rows, generator)


def _rows_of(sets: Mapping[str, Sequence[object]]) -> dict[str, range]:
    """Return the row numbers of each set in the concatenated sets."""
    ends = accumulate(map(len, sets.values()))
    return {name: range(end - len(sets[name]), end) for name, end in zip(sets, ends, strict=True)}


def _share(rows: range, weight: float, generator: torch.Generator) -> list[int]:
    """Return `weight` times the rows: whole passes, and a random part."""
    passes, rest = divmod(round(weight * len(rows)), len(rows)) if rows else (0, 0)
    chosen = _shuffled(list(rows), generator)[:rest] if rest else []
    return list(rows) * passes + chosen


def _batches(
    stream: list[int], lengths: Sequence[int], sizes: Sequence[int], batch_size: int, generator: torch.Generator
) -> list[list[int]]:
    """Cut a shuffled stream into windows, sort each by length, cut it into batches, and shuffle these."""
    batches = []
    for start in range(0, len(stream), batch_size * _WINDOW):
        window = sorted(stream[start : start + batch_size * _WINDOW], key=lambda row: lengths[row])
        batches += _filled(window, sizes, batch_size)
    return _shuffled(batches, generator)


def _filled(stream: Sequence[int], sizes: Sequence[int], batch_size: int) -> list[list[int]]:
    """Cut a stream into batches of at most `batch_size` in total."""
    batches: list[list[int]] = []
    room = 0
    for item in stream:
        if sizes[item] > room:
            batches.append([])
            room = batch_size
        batches[-1].append(item)
        room -= sizes[item]
    return batches


def _one_after_another(parts: Mapping[str, list[list[int]]], max_steps: int) -> Plan:
    """Plan the batches of the sets in sequence, each set cut in proportion to fit `max_steps`."""
    total = sum(map(len, parts.values()))
    most = min(max_steps or total, total)
    if most < len(parts):
        raise InputError(f"max_steps={max_steps} cannot give each of {len(parts)} sets a step; raise it")
    # every set gets one step; the others are distributed so that the running total is off by less than a step
    share = (most - len(parts)) / (total - len(parts)) if total > len(parts) else 0.0
    rows: list[list[int]] = []
    stages: list[tuple[int, str]] = []
    ends = accumulate(len(batches) - 1 for batches in parts.values())
    for number, (end, (name, batches)) in enumerate(zip(ends, parts.items(), strict=True), start=1):
        rows += batches[: number + round(end * share) - len(rows)]
        stages.append((len(rows) - 1, name))
    return Plan(rows, stages)


def _shuffled(items: list[T], generator: torch.Generator) -> list[T]:
    return [items[i] for i in torch.randperm(len(items), generator=generator).tolist()]
