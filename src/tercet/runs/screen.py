"""What reaches a terminal: texts of models, data and files as text, without the characters that command a terminal."""

import re
import sys
from collections.abc import Iterator
from typing import Any

from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderableType, RenderHook
from rich.measure import Measurement
from rich.segment import Segment

# C0 but tab and line end, DEL, C1, overrides of the writing direction, and lone surrogates, which no encoding takes
_COMMANDS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def visible(text: str) -> str:
    """Text whose control characters are shown as pictures or escapes of themselves; line ends and tabs stay."""
    return _COMMANDS.sub(_picture, text)


def screen(**options: Any) -> Console:  # Any: rich's own options
    """A console on standard output that prints texts as they are: no markup, and all of it `visible`."""
    console = Console(highlight=False, markup=False, emoji=False, **options)
    console.push_render_hook(_AllVisible())
    return console


def write(piece: str) -> None:
    """Print a piece of a line at once, such as a token of an answer."""
    sys.stdout.write(visible(piece))
    sys.stdout.flush()


def _picture(found: re.Match[str]) -> str:
    code = ord(found[0])
    if code < 0x20:
        return chr(0x2400 + code)
    return "\u2421" if code == 0x7F else f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


class _AllVisible(RenderHook):
    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        return [_Visible(one) for one in renderables]


class _Visible:
    """Something to print whose texts are made visible behind its layout; colours and lines are no texts."""

    def __init__(self, inner: RenderableType) -> None:
        self.inner = inner

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Segment]:
        for segment in console.render(self.inner, options):
            yield segment if segment.control else Segment(visible(segment.text), segment.style)

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement.get(console, options, self.inner)
