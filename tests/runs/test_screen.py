"""What reaches a terminal."""

from io import StringIO

import pytest
from rich.table import Table

from tercet.runs.progress import progress, say
from tercet.runs.screen import screen, visible, write


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a line\n\tand a tab, ü, 中文, 🦾", "a line\n\tand a tab, ü, 中文, 🦾"),
        ("\x1b[31mred\x1b[0m", "␛[31mred␛[0m"),
        ("\x00\x07\x08\r\n\x7f", "␀␇␈␍\n␡"),
        ("\x9b2J", "\\x9b2J"),
        ("\u202etxt.exe\u2066", "\\u202etxt.exe\\u2066"),
        ("a\udcff", "a\\udcff"),
    ],
)
def test_control_characters_are_made_visible(text: str, shown: str) -> None:
    assert visible(text) == shown


def test_printed_text_is_not_markup() -> None:
    file = StringIO()
    console = screen(file=file, width=60, force_terminal=True, color_system="truecolor")
    table = Table(expand=True, title="\x1b]0;title [red]x[/] [/]")
    table.add_column("[b]head\x9b[/b]", style="red")
    table.add_row(":smile: \x1b[2J\u202e")
    console.print(table)
    console.print("\x1b[5m[/] :smile:")
    text = file.getvalue()
    assert all(
        part in text for part in ("␛]0;title [red]x[/] [/]", "[b]head\\x9b[/b]", ":smile: ␛[2J\\u202e", "␛[5m[/]")
    )
    assert "\x1b[31m" in text  # our own colour
    assert not any(part in text for part in ("\x1b]0", "\x1b[2J", "\x1b[5m", "\u202e", "\x07"))


def test_lines_bars_and_pieces_are_visible(capsys: pytest.CaptureFixture[str]) -> None:
    say("\x1b[31mred")
    write("\x1b[1m")
    write(" piece\n")
    with progress("\x1b[2J", 1) as bar:
        bar.advance(1, {"accuracy/set\x9b": 1.0})
    out = capsys.readouterr().out
    assert out.startswith("␛[31mred\n␛[1m piece\n␛[2J  1/1")
    assert "set\\x9b 1" in out
