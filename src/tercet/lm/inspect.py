"""`tercet lm data`: show the data sets and what each step gets of them, before training."""

import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from statistics import fmean, median, quantiles

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tercet.config.lm import DataConfig, LmConfig
from tercet.core.intervals import win
from tercet.errors import InputError
from tercet.lm.data.columns import columns_of_run
from tercet.lm.data.examples import Example, fraction
from tercet.lm.data.sources import read
from tercet.lm.data.splits import (
    STEPS,
    Sets,
    StepExamples,
    StepName,
    flat,
    report_dropped,
    set_names,
    step_examples,
)
from tercet.lm.text.encoder import Encoder
from tercet.lm.text.token_view import LEGEND, shown, token_rows
from tercet.runs.screen import screen

_NUM_SAMPLES = 3
_SHOWN = 400  # characters of a sampled text
_NUM_IN_TOKENS = 2  # examples per step whose tokens are shown
_NUM_SAMPLED = 20  # examples from which those are taken
_NUM_MEASURED = 2000  # examples per set whose tokens are counted


@dataclass(frozen=True)
class Lengths:
    """Lengths of some texts in tokens: median, 90th percentile, maximum; all 0 if there are no texts."""

    middle: int
    long: int  # 90th percentile
    longest: int

    @classmethod
    def of(cls, lengths: Sequence[int]) -> "Lengths":
        """Summarise lengths."""
        lengths = lengths or [0]
        long = quantiles(lengths, n=10, method="inclusive")[-1] if len(lengths) > 1 else lengths[0]
        return cls(round(median(lengths)), round(long), max(lengths))


@dataclass(frozen=True)
class Summary:
    """Counts of one data set."""

    num_examples: int
    num_pairs: int
    num_ties: int  # examples without a preference in a set of pairs
    num_repeated_prompts: int  # examples with the prompt of an earlier one
    num_duplicates: int  # examples equal to an earlier one, responses included
    longer_is_better: float  # share of pairs whose chosen response is longer; equal lengths count half


@dataclass(frozen=True)
class Tokens:
    """Lengths in tokens of a sample of a set, and the shares of examples beyond the config's limits."""

    num_measured: int
    prompt: Lengths
    chosen: Lengths
    rejected: Lengths
    too_long: float  # share of prompts dropped for data.max_prompt_tokens
    cut: float  # share of examples with a response cut at data.max_response_tokens


def summarise(examples: Sequence[Example]) -> Summary:
    """Count examples, pairs, ties, duplicates and length bias of a set."""
    pairs = [(example.chosen, example.rejected) for example in examples if example.rejected is not None]
    longer = [win(len(chosen), len(rejected)) for chosen, rejected in pairs]
    return Summary(
        num_examples=len(examples),
        num_pairs=len(pairs),
        num_ties=len(examples) - len(pairs) if pairs else 0,
        num_repeated_prompts=len(examples) - len({example.key for example in examples}),
        num_duplicates=len(examples) - len({(e.key, e.chosen, e.rejected) for e in examples}),
        longer_is_better=sum(longer) / len(longer) if longer else 0.0,
    )


def count_tokens(examples: Sequence[Example], encoder: Encoder) -> Tokens:
    """Measure the examples in tokens; of a large set, a fixed sample."""
    some = _some(examples, _NUM_MEASURED)
    whole = replace(encoder, max_response_tokens=sys.maxsize)
    prompts = [len(encoder.prompt(e)) for e in some]
    chosen = [len(whole.response(e.chosen)) if e.chosen else 0 for e in some]
    rejected = [0 if e.rejected is None else len(whole.response(e.rejected)) for e in some]
    cut = [max(pair) > encoder.max_response_tokens for pair in zip(chosen, rejected, strict=True)]
    return Tokens(
        num_measured=len(some),
        prompt=Lengths.of(prompts),
        chosen=Lengths.of([n for n in chosen if n]),
        rejected=Lengths.of([n for n in rejected if n]),
        too_long=fmean(n > encoder.max_prompt_tokens for n in prompts),
        cut=fmean(cut),
    )


def in_common(sets: Sets) -> dict[tuple[str, str], int]:
    """Count the conversations that every two sets share; pairs of sets that share none are left out."""
    openings = {name: {example.opening for example in examples} for name, examples in sets.items()}
    shared = {(a, b): len(openings[a] & openings[b]) for a, b in combinations(sets, 2)}
    return {names: number for names, number in shared.items() if number}


def num_leaks(steps: Sequence[StepExamples]) -> int:
    """Count held-out conversations of any step that any step learns from; must be 0."""
    held_out = {e.opening for s in steps for sets in (s.validation, s.test) for rows in sets.values() for e in rows}
    learned = {e.opening for s in steps for rows in s.train.values() for e in rows}
    return len(held_out & learned)


def run(config: LmConfig, console: Console | None = None) -> None:
    """Print samples, counts and splits of every data set in the config; InputError if one cannot be read."""
    console = console or screen()
    data = config.data
    used = [source for sources in (data.train, data.sft, data.reward, data.ppo, data.eval) for source in sources]
    distinct = list({source.model_dump_json(): source for source in used}.values())
    if not distinct:
        raise InputError("no data to show: name files or sets in data.train")
    sets: Sets = {}
    columns = columns_of_run(config)
    for source, name in zip(distinct, set_names(distinct), strict=True):
        mapped = source.columns or data.columns
        reading = read(source, name=name, columns=mapped, needs_response=False, extra=columns)
        sets[name] = reading.examples
        report_dropped(name, reading)
        console.print(_samples(name, sets[name]))
    console.print(_figures({name: summarise(examples) for name, examples in sets.items()}))
    encoder: Encoder | None = None
    try:
        encoder = Encoder.of(config)
        console.print(_lengths({name: count_tokens(examples, encoder) for name, examples in sets.items()}, data))
    except InputError as error:  # the data can be shown without the model
        encoder = None
        console.print(Text(f"lengths are unknown: {error}", style="yellow"))
    steps: dict[StepName, StepExamples] = {}
    refusals: dict[StepName, str] = {}
    for step in STEPS:
        try:
            examples = step_examples(data, step, columns)
            steps[step] = encoder.pairs_that_differ(examples) if encoder and step == "reward" else examples
        except InputError as error:  # a set without responses may still suit other steps
            refusals[step] = str(error)
    console.print(_shares(steps))
    if encoder:
        _print_tokens(console, steps, encoder, sft_loss_on=config.sft.loss_on, reward_loss=config.reward.loss)
    for step, why in refusals.items():
        console.print(Text(f"{step} cannot run on this data: {why}", style="yellow"))
    for (a, b), number in in_common(sets).items():
        note = "none is in both training and held-out data"
        console.print(Text(f"{a} and {b} have {number} conversations in common ({note})", style="yellow"))
    leaks = num_leaks(list(steps.values()))
    console.print(Text(f"leaks between training and held-out data: {leaks}", style="red" if leaks else "green"))


def _samples(name: str, examples: Sequence[Example]) -> Table:
    """Show a few examples, the same ones each time."""
    table = Table(title=f"{name}: samples", show_lines=True, expand=True, title_justify="left")
    for column in ("location", "prompt", "chosen", "rejected"):
        table.add_column(column, ratio=1 if column == "location" else 3, overflow="fold")
    for e in _some(examples, _NUM_SAMPLES):
        table.add_row(
            *(Text(_shortened(text)) for text in (e.location.split("/")[-1], e.prompt, e.chosen, e.rejected or ""))
        )
    return table


def _some(examples: Sequence[Example], num: int) -> list[Example]:
    """Return `num` examples, the same ones each time."""
    return sorted(examples, key=lambda e: fraction(f"{e.location} {e.key}", "sample"))[:num]


def _figures(summaries: dict[str, Summary]) -> Table:
    table = Table(title="data sets", title_justify="left")
    for column in ("set", "examples", "pairs", "ties", "repeated prompts", "duplicates", "chosen is longer"):
        table.add_column(column, justify="left" if column == "set" else "right")
    for name, s in summaries.items():
        counts = (s.num_examples, s.num_pairs, s.num_ties, s.num_repeated_prompts, s.num_duplicates)
        table.add_row(name, *map(str, counts), f"{s.longer_is_better:.0%}" if s.num_pairs else "-")
    return table


def _lengths(counts: dict[str, Tokens], data: DataConfig) -> Table:
    title = "lengths in tokens: median / 90% / longest"
    if any(tokens.num_measured == _NUM_MEASURED for tokens in counts.values()):
        title += f" (of {_NUM_MEASURED} examples per set)"
    table = Table(title=title, title_justify="left")
    limits = (f"prompts over {data.max_prompt_tokens}", f"responses cut at {data.max_response_tokens}")
    for column in ("set", "prompt", "chosen", "rejected", *limits):
        table.add_column(column, justify="left" if column == "set" else "right")
    for name, tokens in counts.items():
        lengths = (_distribution(at) for at in (tokens.prompt, tokens.chosen, tokens.rejected))
        table.add_row(name, *lengths, f"{tokens.too_long:.1%}", f"{tokens.cut:.1%}")
    return table


def _distribution(lengths: Lengths) -> str:
    return f"{lengths.middle} / {lengths.long} / {lengths.longest}" if lengths.longest else "-"


def _shares(steps: dict[StepName, StepExamples]) -> Table:
    """Show the training, validation and test examples of each step."""
    table = Table(title="examples per step", title_justify="left")
    for column in ("step", "set", "train", "validation", "test", "left out"):
        table.add_column(column, justify="right" if column in {"train", "validation", "test"} else "left")
    for step, examples in steps.items():
        shown_step: str = step
        left_out = ", ".join(f"{number} {reason}" for reason, number in Counter(examples.dropped).most_common())
        for name in {**examples.train, **examples.test}:
            parts = (examples.train, examples.validation, examples.test)
            table.add_row(shown_step, name, *(str(len(part.get(name, []))) for part in parts), left_out)
            shown_step, left_out = "", ""
    return table


def _print_tokens(
    console: Console, steps: dict[StepName, StepExamples], encoder: Encoder, *, sft_loss_on: str, reward_loss: str
) -> None:
    """Print the tokens of a few training rows of each step; sampled pairs do not exist yet."""
    console.print(LEGEND)
    for step, examples in steps.items():
        rows = [e for e in flat(examples.train) if step != "reward" or e.rejected is not None]
        fitting = [e for e in _some(rows, _NUM_SAMPLED) if len(encoder.prompt(e)) <= encoder.max_prompt_tokens]
        for example in fitting[:_NUM_IN_TOKENS]:
            console.print(Text(f"{step}, {example.location.split('/')[-1]}", style="bold"))
            for row in token_rows(step, example, encoder, sft_loss_on=sft_loss_on, reward_loss=reward_loss):
                console.print(shown(row, encoder.tokenizer))


def _shortened(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]} ... ({len(text)} characters)"
