"""Split examples into training, validation and test sets of each step by a hash of their text.

The hash is that of the user's first text in a conversation. So no prompt, and no earlier turn of it, is in both
training and held-out data, in any step and whichever files the steps read. The split uses no random generator.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal
from unicodedata import category

from tercet.config.lm import DataConfig, Source
from tercet.errors import InputError
from tercet.lm.data.cells import listed
from tercet.lm.data.examples import Example, fraction
from tercet.lm.data.files import file_type, folder_files, is_folder, is_regular, stem
from tercet.lm.data.sources import Reading, read
from tercet.runs.progress import say_once

StepName = Literal["sft", "reward", "ppo"]
Sets = dict[str, list[Example]]  # name of the set -> its examples

STEPS: tuple[StepName, ...] = ("sft", "reward", "ppo")
_REPEATED = "repeated prompt"  # not reported: PPO samples several responses to a prompt anyway
_VALIDATION_SHARE = 0.25  # of the held-out data; the rest is the test set


@dataclass(frozen=True)
class StepExamples:
    """The examples of one step by set; with `data.eval`, held-out sets have other names than training sets.

    `dropped` counts the examples left out, by reason.
    """

    train: Sets
    validation: Sets
    test: Sets
    dropped: dict[str, int]

    @property
    def held_out(self) -> Sets:
        """Test and validation sets together, for metrics that select no checkpoint; without empty sets."""
        together = {name: [*self.test[name], *self.validation[name]] for name in self.test}
        return {name: rows for name, rows in together.items() if rows}


def sources_of(config: DataConfig, step: StepName) -> list[Source]:
    """Return the training sets of a step: its own, or `data.train`."""
    own: dict[StepName, list[Source]] = {"sft": config.sft, "reward": config.reward, "ppo": config.ppo}
    return own[step] or config.train


def weights_of(config: DataConfig, step: StepName) -> dict[str, float]:
    """Return the weight of each training set of a step by its name."""
    sources = sources_of(config, step)
    return {name: source.weight for name, source in zip(set_names(sources), sources, strict=True)}


def step_examples(config: DataConfig, step: StepName, columns: tuple[str, ...] = ()) -> StepExamples:
    """Read and split the sets of a step, with the columns that score functions take. InputError if none is left.

    PPO gets each prompt once, however many responses the data has. The reward model gets only pairs from a set that has
    some, and all examples from a set without pairs (its pairs are sampled and judged). Callers must not change the
    result: it is cached, and the next call of the same step returns it unless a file has changed.
    """
    sources = [*sources_of(config, step), *config.eval]
    states = tuple(state for source in sources for state in _states(source))
    return _split(config.model_dump_json(), step, columns, states)


@lru_cache(maxsize=1)  # the checks, the step and its digests all read the same sets, and a large set takes many seconds
def _split(config_json: str, step: StepName, columns: tuple[str, ...], _: tuple[object, ...]) -> StepExamples:
    config = DataConfig.model_validate_json(config_json)
    sources = sources_of(config, step)
    if not sources:
        raise InputError(f"no data for {step}: name files or sets in data.train or data.{step}")
    dropped: dict[str, int] = {}
    train = _read_all(sources, config, step, columns, dropped)
    held_out = _read_all(config.eval, config, step, columns, dropped) if config.eval else {}
    reported = {*dropped, _REPEATED}
    if held_out:
        measured = {example.opening for examples in held_out.values() for example in examples}
        train = filtered(train, lambda example: example.opening not in measured, "also in data.eval", dropped)
        _refuse_empty(train, f"every prompt of {step}'s training sets is in data.eval too; give other files")
    else:
        held_out = {name: [e for e in rows if _is_held_out(e, config)] for name, rows in train.items()}
        train = {name: [e for e in rows if not _is_held_out(e, config)] for name, rows in train.items()}
        _refuse_empty(train, f"data.eval_fraction={config.eval_fraction} leaves {step} nothing to learn from; lower it")
    if config.split:
        train = {name: [e for e in rows if _step_of(e, config) == step] for name, rows in train.items()}
        _refuse_empty(train, f"data.split={config.split} leaves {step} nothing to learn from; give it more weight")
    if step != "sft":
        _report_conflicts(step, [*flat(train), *flat(held_out)])
    train, held_out = _fit_for(step, train, dropped), _fit_for(step, held_out, {})
    if lost := ", ".join(f"{number} ({reason})" for reason, number in dropped.items() if reason not in reported):
        say_once(f"{step}: examples left out: {lost}")
    return StepExamples(
        train=train,
        validation={name: [e for e in rows if _is_validation(e, config)] for name, rows in held_out.items()},
        test={name: [e for e in rows if not _is_validation(e, config)] for name, rows in held_out.items()},
        dropped=dropped,
    )


def _states(source: Source) -> Iterator[tuple[str, int, int, int]]:
    """Yield name, inode, size and time of each local file of a set; a hub set is assumed not to change during a run."""
    path = Path(source.path)
    for file in folder_files(path) if is_folder(path) else [path]:
        if is_regular(file):
            state = file.stat()
            yield str(file), state.st_ino, state.st_size, state.st_mtime_ns


def flat(sets: Mapping[str, list[Example]]) -> list[Example]:
    """Concatenate the examples of all sets."""
    return [example for rows in sets.values() for example in rows]


def filtered(sets: Sets, wanted: Callable[[Example], bool], reason: str, dropped: dict[str, int]) -> Sets:
    """Keep the wanted examples of each set; add the number of the others to `dropped[reason]`."""
    remaining = {name: [example for example in rows if wanted(example)] for name, rows in sets.items()}
    lost = sum(map(len, sets.values())) - sum(map(len, remaining.values()))
    if lost:
        dropped[reason] = dropped.get(reason, 0) + lost
    return remaining


def overlap(examples: StepExamples) -> float:
    """Return the share of held-out conversations that differ from one the step learns from in punctuation or spaces.

    The split keeps equal texts together, but takes two that differ within by punctuation or spaces for different ones.
    """
    learned = {_content(example) for example in flat(examples.train)}
    held_out = {_content(example) for example in flat(examples.held_out)}
    return len(held_out & learned) / len(held_out) if held_out else 0.0


def _content(example: Example) -> str:
    """Return letters, digits and what makes another number or formula of them; without any, the whole text."""
    words = re.split(r"([\W_]+)", example.opening)  # every second part has no letters or digits
    for i in range(1, len(words), 2):
        words[i] = _signs(words[i], before=words[i - 1][-1:], after=words[i + 1][:1])
    return "".join(words) or example.opening


def _signs(gap: str, *, before: str, after: str) -> str:
    """Return what counts of the characters between two words: 12 + 3 is not 12 - 3, 1.23 is not 123, nor is 1 23."""
    if before.isdigit() and after.isdigit():
        return "".join(gap.split()) or " "
    signs = "-*/^" if before.isdigit() or after.isdigit() else ""
    return "".join(mark for mark in gap if mark in signs or category(mark) == "Sm")  # Sm: symbols of mathematics


def require_pairs(examples: StepExamples) -> None:
    """Raise InputError if a training set of the reward model has no pairs."""
    for name, rows in examples.train.items():
        if rows and rows[0].rejected is None:
            raise InputError(
                f"set {name} ({rows[0].location}) has no rejected responses, so a reward model cannot learn from it; "
                "map the column with data.columns={rejected: YOUR_COLUMN}, "
                "or have pairs sampled and judged with reward.num_sampled_pairs and judge"
            )


def set_names(sources: Sequence[Source]) -> list[str]:
    """Return a unique name for each set: its `name`, the file's stem or the id's last part, numbered if repeated."""
    names: list[str] = []
    for source in sources:
        path = source.path.rstrip("/")
        wanted = source.name or (stem(path) if file_type(path) else path.split("/")[-1])
        name, number = wanted, 1
        while name in names:
            number += 1
            name = f"{wanted}-{number}"
        names.append(name)
    return names


def _read_all(
    sources: Sequence[Source], config: DataConfig, step: StepName, columns: tuple[str, ...], dropped: dict[str, int]
) -> Sets:
    """Read every set by its name; only SFT needs responses."""
    sets: Sets = {}
    for source, name in zip(sources, set_names(sources), strict=True):
        reading = read(
            source,
            name=name,
            columns=source.columns or config.columns,
            needs_response=step == "sft",
            extra=columns,
        )
        sets[name] = reading.examples
        report_dropped(name, reading)
        for reason, number in reading.dropped.items():
            dropped[reason] = dropped.get(reason, 0) + number
    return sets


def report_dropped(name: str, reading: Reading) -> None:
    """Report once the rows of a set that were left out, and the columns that are not read."""
    if reading.dropped:
        counts = ", ".join(f"{number} ({reason})" for reason, number in reading.dropped.items())
        say_once(f"{name}: rows left out: {counts}")
    if reading.unread:
        say_once(f"{name}: nothing reads {listed(reading.unread)}")


def _is_held_out(example: Example, config: DataConfig) -> bool:
    return _position(example, "held out", config) < config.eval_fraction


def _is_validation(example: Example, config: DataConfig) -> bool:
    return _position(example, "validation", config) < _VALIDATION_SHARE


def _step_of(example: Example, config: DataConfig) -> StepName:
    """Return the step that an example belongs to, with probability proportional to the weights."""
    weights = config.split
    position = _position(example, "step", config) * sum(weights)
    for step, weight in zip(STEPS, weights, strict=True):
        if position < weight:
            return step
        position -= weight
    # reached only through rounding: return the last step with a weight
    return next(step for step, weight in zip(STEPS[::-1], weights[::-1], strict=True) if weight > 0)


def _position(example: Example, purpose: str, config: DataConfig) -> float:
    """Return a number in [0, 1) that is the same for all examples of a conversation."""
    return fraction(example.opening, f"{purpose} {config.split_seed}")


def _fit_for(step: StepName, sets: Sets, dropped: dict[str, int]) -> Sets:
    """Keep the examples that a step can use: pairs if a set has pairs, and each prompt once for PPO."""
    if step == "reward":
        paired = {name for name, rows in sets.items() if any(example.rejected is not None for example in rows)}
        return filtered(sets, lambda e: e.source not in paired or e.rejected is not None, "no preference", dropped)
    if step == "ppo":
        first = {example.key: example for rows in reversed(sets.values()) for example in reversed(rows)}
        return filtered(sets, lambda e: first[e.key] is e, _REPEATED, dropped)
    return sets


def _report_conflicts(step: StepName, examples: Sequence[Example]) -> None:
    """Report prompts that occur with several values of the columns that score functions take: one of them is used."""
    first: dict[str, Example] = {}
    others = [e for e in examples if e.extra and first.setdefault(e.key, e).extra != e.extra]
    if others:
        one, other = first[others[0].key], others[0]
        say_once(
            f"{step}: {len({e.key for e in others})} prompts have rows that differ in columns for functions, such as "
            f"{one.location} and {other.location}; functions get the columns of one row"
        )


def _refuse_empty(sets: Sets, message: str) -> None:
    if not any(sets.values()):
        raise InputError(message)
