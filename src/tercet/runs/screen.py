"""Printing to a terminal: control characters in texts of models, data and files are made visible."""

import re
import sys
from collections.abc import Iterator
from typing import Any

from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderableType, RenderHook
from rich.measure import Measurement
from rich.segment import Segment

# C0 except tab and line end, DEL, C1, bidirectional overrides, and lone surrogates, which cannot be encoded
_COMMANDS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def visible(text: str) -> str:
    """Replace control characters, except line ends and tabs, by visible symbols or escapes."""
    return _COMMANDS.sub(_picture, text)


def counted(num: int, noun: str) -> str:
    """Return a number with its noun, such as `1 pair` and `3 pairs`."""
    return f"{num} {noun}" if num == 1 else f"{num} {noun}s"


def screen(**options: Any) -> Console:  # Any: rich's own options
    """Return a console on standard output without markup, which prints all text through `visible`."""
    console = Console(highlight=False, markup=False, emoji=False, **options)
    console.push_render_hook(_AllVisible())
    return console


def write(piece: str) -> None:
    """Print a part of a line immediately, such as a token of a response."""
    sys.stdout.write(visible(piece))
    sys.stdout.flush()


def _picture(match: re.Match[str]) -> str:
    code = ord(match[0])
    if code < 0x20:
        return chr(0x2400 + code)
    return "\u2421" if code == 0x7F else f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


class _AllVisible(RenderHook):
    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        return [_Visible(one) for one in renderables]


class _Visible:
    """A renderable whose texts are made visible after layout; colours and lines are unchanged."""

    def __init__(self, inner: RenderableType) -> None:
        self.inner = inner

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Segment]:
        for segment in console.render(self.inner, options):
            yield segment if segment.control else Segment(visible(segment.text), segment.style)

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement.get(console, options, self.inner)
