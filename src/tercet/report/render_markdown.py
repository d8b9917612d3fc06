"""Render a page as Markdown; curves become lines of block characters."""

import re
from collections.abc import Sequence
from itertools import pairwise

from tercet.report.blocks import (
    Answer,
    Bar,
    Block,
    Cards,
    Cell,
    Checks,
    Code,
    Comparison,
    Figures,
    Fold,
    Headline,
    Heat,
    Page,
    Prose,
    Subhead,
    Table,
    Videos,
)
from tercet.report.formats import percent
from tercet.runs.screen import visible

_STEPS = "▁▂▃▄▅▆▇█"
_WIDTH = 24  # characters of a curve


def render(page: Page) -> str:
    """Return the Markdown of `page`; texts are escaped, so that a response cannot become markup."""
    parts = [f"# {_text(page.title)}", _text(page.subtitle), *(_block(block) for block in page.top)]
    for section in page.sections:
        parts += [f"## {_text(section.title)}", *(_block(block) for block in section.blocks)]
    return visible("\n\n".join(part for part in [*parts, "---", page.footer] if part)) + "\n"


def strip(values: Sequence[float]) -> str:
    """Draw a curve as a line of block characters, each for the mean of a part."""
    if len(values) < 2:
        return ""
    width = min(_WIDTH, len(values))
    cuts = [round(i * len(values) / width) for i in range(width + 1)]
    means = [sum(values[a:b]) / (b - a) for a, b in pairwise(cuts)]
    low, high = min(means), max(means)
    return "".join(_STEPS[round((mean - low) / (high - low or 1) * (len(_STEPS) - 1))] for mean in means)


def _block(block: Block) -> str:
    match block:
        case Prose(text):
            return _prose(text)
        case Subhead(text):
            return f"### {_text(text)}"
        case Headline(text, more):
            return "\n\n".join([f"> **{_prose(text)}**", *(f"> {_prose(sentence)}" for sentence in more)]).replace(
                "\n\n", "\n>\n"
            )
        case Cards(cards):
            rows = [
                [f"{card.number} {card.verb}", card.name, card.figure, card.label, "; ".join(card.lines), card.seconds]
                for card in cards
            ]
            return _table(["step", "", "result", "", "", "time"], rows, "llrlll")
        case Checks(checks):
            return "\n".join(
                f"- {'✓' if one.good else '**!**'} **{_text(one.title)}.** {_prose(one.text)}" for one in checks
            )
        case Table(title, caption, head, rows, align):
            return "\n\n".join(
                part
                for part in [f"### {_text(title)}" if title else "", _prose(caption), _table(head, rows, align)]
                if part
            )
        case Figures(figures):
            rows = [[f"{one.title}, {one.unit}", one.change, strip(one.numbers), one.caption] for one in figures]
            return _table(["curve", "first → last", "", "what it shows"], rows, "lrll")
        case Comparison(prompt, rows):
            return "\n".join([f"**{_text(prompt)}**", "", *(_answer(way, one) for way, row in rows for one in row)])
        case Videos(caption, videos):
            return "\n".join([_prose(caption), "", *(f"- [{_text(one.title)}]({one.file})" for one in videos)])
        case Code(language, text):
            fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
            return f"{fence}{language}\n{text}\n{fence}"
        case Fold(title, blocks):
            inner = "\n\n".join(_block(one) for one in blocks)
            return f"<details><summary>{_text(title)}</summary>\n\n{inner}\n\n</details>"


def _answer(way: str, answer: Answer) -> str:
    notes = "".join(f"({_text(note)}) " for note in (way, answer.note) if note)
    return f"- **{_text(answer.stage)}** {notes}{_text(answer.text)}"


def _table(head: Sequence[str], rows: Sequence[Sequence[Cell]], align: str) -> str:
    rule = ["---:" if letter == "r" else "---" for letter in align]
    lines = [[_text(title) for title in head], rule, *([_cell(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(cell: Cell) -> str:
    if isinstance(cell, Bar):
        return f"{percent(cell.rate.mean)} ({percent(cell.rate.low)} to {percent(cell.rate.high)})"
    return _text(cell.text if isinstance(cell, Heat) else cell)


def _text(text: str) -> str:
    """Escape HTML and Markdown, and put the text on one line."""
    escaped = text.replace("\\", "\\\\").replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([*_`|\[\]#])", r"\\\1", escaped).strip().replace("\n", "<br>")


def _prose(text: str) -> str:
    """Escape one of our sentences like `_text`, but keep `code`."""
    parts = re.split(r"(`[^`]+`)", text)
    return "".join(
        part if part.startswith("`") and part.endswith("`") and len(part) > 2 else _text_inside(part) for part in parts
    )


def _text_inside(text: str) -> str:
    lead, tail = text[: len(text) - len(text.lstrip())], text[len(text.rstrip()) :]
    return f"{lead}{_text(text)}{tail}" if text.strip() else text
