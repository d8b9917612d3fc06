"""The blocks of a report, independent of HTML and Markdown; both renderers show the same blocks."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, TypeAlias

from tercet.core.intervals import Interval

Role: TypeAlias = Literal["base", "sft", "ppo", "other"]  # selects the colour


@dataclass(frozen=True)
class Bar:
    """A rate with its 95 % interval, on a scale from 0 to 100 % with a mark at 50 %."""

    rate: Interval
    role: Role = "ppo"


@dataclass(frozen=True)
class Heat:
    """A number on a coloured background; `share` is 0 for the lowest number of the table and 1 for the highest."""

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
    """A title of the following blocks."""

    kind: ClassVar[str] = "subhead"
    text: str


@dataclass(frozen=True)
class Headline:
    """The outcome in one sentence, and details in a few more."""

    kind: ClassVar[str] = "headline"
    text: str
    more: Sequence[str]
    verdict: Literal["better", "even", "worse", "open"]


@dataclass(frozen=True)
class Card:
    """One step of the run: its main figure and a few lines of text."""

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
    """One check with its result and its meaning."""

    good: bool
    title: str
    text: str


@dataclass(frozen=True)
class Checks:
    """A list of checks."""

    kind: ClassVar[str] = "checks"
    checks: Sequence[Check]


@dataclass(frozen=True)
class Table:
    """A table with a header; `align` has one letter for each column: l text, r number, w wide text, b bar."""

    kind: ClassVar[str] = "table"
    title: str
    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    align: str


@dataclass(frozen=True)
class Key:
    """An entry of a plot's legend."""

    label: str
    colour: str
    dots: bool = False


@dataclass(frozen=True)
class Figure:
    """A plot with its legend; `numbers` are the values of the main curve, for readers without pictures."""

    title: str
    unit: str
    caption: str
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
    """The response of one stage, and a note such as its score."""

    stage: str
    role: Role
    text: str
    note: str = ""


@dataclass(frozen=True)
class Comparison:
    """A prompt and the responses of the stages; `rows` are ways of decoding, such as greedy and sampled."""

    kind: ClassVar[str] = "comparison"
    prompt: str
    rows: Sequence[tuple[str, Sequence[Answer]]]


@dataclass(frozen=True)
class Video:
    """A video: `file` is its path beside the page, and `data` the MP4 that is embedded in HTML."""

    title: str
    file: str
    data: bytes


@dataclass(frozen=True)
class Videos:
    """Videos in a grid with a common caption; with `together`, small ones in one row that play at the same time."""

    kind: ClassVar[str] = "videos"
    caption: str
    videos: Sequence[Video]
    together: bool = False


@dataclass(frozen=True)
class Code:
    """Preformatted text."""

    kind: ClassVar[str] = "code"
    language: str
    text: str


@dataclass(frozen=True)
class Fold:
    """Blocks that are folded on the page; printed only if `printed`."""

    kind: ClassVar[str] = "fold"
    title: str
    blocks: Sequence["Block"]
    printed: bool = False


Block: TypeAlias = Prose | Subhead | Headline | Cards | Checks | Table | Figures | Comparison | Videos | Code | Fold


@dataclass(frozen=True)
class Section:
    """A section of the page with its title."""

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
