"""What a report is made of, free of HTML and Markdown: the two renderers show the same blocks."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, TypeAlias

from tercet.core.intervals import Interval

Role: TypeAlias = Literal["base", "sft", "ppo", "other"]  # which colour something gets


@dataclass(frozen=True)
class Bar:
    """A rate with its 95 % interval, drawn on a scale from 0 to 100 % with a mark at one half."""

    rate: Interval
    role: Role = "ppo"


@dataclass(frozen=True)
class Heat:
    """A number on a tinted ground: `share` runs from 0 (the lowest of the table) to 1 (the highest)."""

    text: str
    share: float


Cell: TypeAlias = str | Bar | Heat


@dataclass(frozen=True)
class Prose:
    """A paragraph of plain text."""

    kind: ClassVar[str] = "prose"
    text: str


@dataclass(frozen=True)
class Subhead:
    """A title for the blocks that follow."""

    kind: ClassVar[str] = "subhead"
    text: str


@dataclass(frozen=True)
class Headline:
    """What happened, in one sentence; what else there is to know, in a few more."""

    kind: ClassVar[str] = "headline"
    text: str
    more: Sequence[str]
    verdict: Literal["better", "even", "worse", "open"]


@dataclass(frozen=True)
class Card:
    """One step of the run: its main figure, large, and a few lines about it."""

    number: int
    name: str
    verb: str
    figure: str
    label: str
    lines: Sequence[str]
    seconds: str
    done: bool
    role: Role


@dataclass(frozen=True)
class Cards:
    """The steps of a run, side by side."""

    kind: ClassVar[str] = "cards"
    cards: Sequence[Card]


@dataclass(frozen=True)
class Check:
    """One sign of health or trouble, with what it means."""

    good: bool
    title: str
    text: str


@dataclass(frozen=True)
class Checks:
    """Signs of health and trouble."""

    kind: ClassVar[str] = "checks"
    checks: Sequence[Check]


@dataclass(frozen=True)
class Table:
    """Rows under a head; `align` has one letter a column: l text, r number, w wide text, b bar."""

    kind: ClassVar[str] = "table"
    title: str
    says: str
    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    align: str


@dataclass(frozen=True)
class Key:
    """What one colour of a plot stands for."""

    label: str
    colour: str
    dots: bool = False


@dataclass(frozen=True)
class Figure:
    """A plot with its own small legend; `numbers` are the main curve's values, for those who cannot see it."""

    title: str
    unit: str
    says: str
    svg: str
    legend: Sequence[Key]
    change: str
    numbers: Sequence[float]


@dataclass(frozen=True)
class Figures:
    """Plots in a grid."""

    kind: ClassVar[str] = "figures"
    figures: Sequence[Figure]


@dataclass(frozen=True)
class Answer:
    """What one stage answered, and a note such as its score."""

    stage: str
    role: Role
    text: str
    note: str = ""


@dataclass(frozen=True)
class Comparison:
    """A prompt and the stages' answers to it; `rows` are ways of answering, such as greedy and sampled."""

    kind: ClassVar[str] = "comparison"
    prompt: str
    rows: Sequence[tuple[str, Sequence[Answer]]]


@dataclass(frozen=True)
class Video:
    """A video beside the page (`file`), which HTML holds itself (`data`, an MP4)."""

    title: str
    file: str
    data: bytes


@dataclass(frozen=True)
class Videos:
    """Videos in a grid, under what they have in common."""

    kind: ClassVar[str] = "videos"
    says: str
    videos: Sequence[Video]


@dataclass(frozen=True)
class Code:
    """Text to be shown as it is, in lines."""

    kind: ClassVar[str] = "code"
    language: str
    text: str


@dataclass(frozen=True)
class Fold:
    """Blocks that are shown when asked for; on paper only where `printed`."""

    kind: ClassVar[str] = "fold"
    title: str
    blocks: Sequence["Block"]
    printed: bool = False


Block: TypeAlias = Prose | Subhead | Headline | Cards | Checks | Table | Figures | Comparison | Videos | Code | Fold


@dataclass(frozen=True)
class Section:
    """A titled part of the page."""

    anchor: str
    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Page:
    """The whole report."""

    title: str
    subtitle: str
    top: Sequence[Block]
    sections: Sequence[Section]
    footer: str
