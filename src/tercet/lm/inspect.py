"""`tercet lm data`: what the data sets hold and what each step would get of them, before anything is trained."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median, quantiles

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tercet.config.lm import LmConfig
from tercet.errors import InputError
from tercet.lm.examples import Example, fraction
from tercet.lm.sources import read
from tercet.lm.splits import STEPS, StepExamples, set_names, step_examples

_NUM_SAMPLES = 3
_SHOWN = 400  # characters of a sampled text


@dataclass(frozen=True)
class Lengths:
    """Characters of some texts; all 0 where there are none."""

    middle: int
    long: int  # nine in ten texts are not longer
    longest: int

    @classmethod
    def of(cls, texts: Sequence[str]) -> "Lengths":
        lengths = [len(text) for text in texts] or [0]
        long = quantiles(lengths, n=10, method="inclusive")[-1] if len(lengths) > 1 else lengths[0]
        return cls(round(median(lengths)), round(long), max(lengths))


@dataclass(frozen=True)
class Summary:
    """The figures of one data set."""

    num_examples: int
    num_pairs: int
    num_ties: int  # examples without a preference, in a set of pairs
    num_repeated_prompts: int  # examples whose prompt stood in an earlier one
    num_duplicates: int  # examples that say the same as an earlier one, answers included
    longer_is_better: float  # share of pairs whose chosen answer is the longer one; equal lengths count half
    prompt: Lengths
    chosen: Lengths
    rejected: Lengths


def summarise(examples: Sequence[Example]) -> Summary:
    """Count what a set holds, and what in it should make one wary."""
    pairs = [(example.chosen, example.rejected) for example in examples if example.rejected is not None]
    longer = [0.5 + 0.5 * ((len(chosen) > len(rejected)) - (len(chosen) < len(rejected))) for chosen, rejected in pairs]
    return Summary(
        num_examples=len(examples),
        num_pairs=len(pairs),
        num_ties=len(examples) - len(pairs) if pairs else 0,
        num_repeated_prompts=len(examples) - len({example.key for example in examples}),
        num_duplicates=len(examples) - len({(e.key, e.chosen, e.rejected) for e in examples}),
        longer_is_better=sum(longer) / len(longer) if longer else 0.0,
        prompt=Lengths.of([example.prompt for example in examples]),
        chosen=Lengths.of([example.chosen for example in examples if example.chosen]),
        rejected=Lengths.of([rejected for _, rejected in pairs]),
    )


def num_leaks(steps: Sequence[StepExamples]) -> int:
    """Held-out conversations (of any step) that some step learns from: 0, unless the dealing is broken."""
    held_out = {e.opening for s in steps for sets in (s.validation, s.test) for rows in sets.values() for e in rows}
    learned = {e.opening for s in steps for rows in s.train.values() for e in rows}
    return len(held_out & learned)


def run(config: LmConfig, console: Console | None = None) -> None:
    """Print samples, figures and shares of every data set in the config; InputError where one cannot be read."""
    console = console or Console()
    data = config.data
    used = [source for sources in (data.train, data.sft, data.reward, data.ppo, data.eval) for source in sources]
    distinct = list({source.model_dump_json(): source for source in used}.values())
    if not distinct:
        raise InputError("no data to show: name files or sets in data.train")
    summaries: dict[str, Summary] = {}
    for source, name in zip(distinct, set_names(distinct), strict=True):
        reading = read(source, name=name, columns=source.columns or data.columns, needs_answer=False)
        summaries[name] = summarise(reading.examples)
        console.print(_samples(name, reading.examples))
    console.print(_figures(summaries), _lengths(summaries))
    steps: dict[str, StepExamples] = {}
    refusals: dict[str, str] = {}
    for step in STEPS:
        try:
            steps[step] = step_examples(data, step)
        except InputError as error:  # a set without answers may still serve the other steps: say it, and go on
            refusals[step] = str(error)
    console.print(_shares(steps))
    for step, why in refusals.items():
        console.print(Text(f"{step} cannot be run on this: {why}", style="yellow"))
    leaks = num_leaks(list(steps.values()))
    console.print(Text(f"leaks between training and held-out data: {leaks}", style="red" if leaks else "green"))


def _samples(name: str, examples: Sequence[Example]) -> Table:
    """A few examples, the same ones each time, side by side."""
    table = Table(title=f"{name}: samples", show_lines=True, expand=True, title_justify="left")
    for column in ("place", "prompt", "chosen", "rejected"):
        table.add_column(column, ratio=1 if column == "place" else 3, overflow="fold")
    for e in sorted(examples, key=lambda e: fraction(f"{e.place} {e.key}", "sample"))[:_NUM_SAMPLES]:
        table.add_row(
            *(Text(_shortened(text)) for text in (e.place.split("/")[-1], e.prompt, e.chosen, e.rejected or ""))
        )
    return table


def _figures(summaries: dict[str, Summary]) -> Table:
    table = Table(title="what the sets hold", title_justify="left")
    for column in ("set", "examples", "pairs", "ties", "repeated prompts", "duplicates", "chosen is the longer"):
        table.add_column(column, justify="left" if column == "set" else "right")
    for name, s in summaries.items():
        counts = (s.num_examples, s.num_pairs, s.num_ties, s.num_repeated_prompts, s.num_duplicates)
        table.add_row(name, *map(str, counts), f"{s.longer_is_better:.0%}" if s.num_pairs else "-")
    return table


def _lengths(summaries: dict[str, Summary]) -> Table:
    table = Table(title="lengths in characters (about 4 a token): middle / nine in ten / longest", title_justify="left")
    for column in ("set", "prompt", "chosen", "rejected"):
        table.add_column(column, justify="left" if column == "set" else "right")
    for name, s in summaries.items():
        table.add_row(name, *(_distribution(at) for at in (s.prompt, s.chosen, s.rejected)))
    return table


def _distribution(lengths: Lengths) -> str:
    return f"{lengths.middle} / {lengths.long} / {lengths.longest}" if lengths.longest else "-"


def _shares(steps: dict[str, StepExamples]) -> Table:
    """What each step learns from, chooses by and is measured on."""
    table = Table(title="what each step would get", title_justify="left")
    for column in ("step", "set", "train", "validation", "test", "left out"):
        table.add_column(column, justify="right" if column in {"train", "validation", "test"} else "left")
    for step, examples in steps.items():
        left_out = ", ".join(f"{number} {reason}" for reason, number in Counter(examples.dropped).most_common())
        for name in {**examples.train, **examples.test}:
            parts = (examples.train, examples.validation, examples.test)
            table.add_row(step, name, *(str(len(part.get(name, []))) for part in parts), left_out)
            step, left_out = "", ""
    return table


def _shortened(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]} ... ({len(text)} characters)"
