"""Render a page as one self-contained HTML file."""

import base64
import re
from importlib.resources import files

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup, escape

from tercet.report.blocks import Bar, Cell, Heat, Page
from tercet.report.formats import interval, percent
from tercet.runs.screen import visible


def render(page: Page) -> str:
    """Return the HTML of `page`; the template escapes every text, but not the SVG of our plots."""
    here = files("tercet.report")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"inline": inline, "svg": Markup, "mp4": _data_address}
    environment.globals |= {"cell_kind": _cell_kind, "percent": percent, "interval": interval}
    template = environment.from_string((here / "page.html.jinja").read_text(encoding="utf-8"))
    style = Markup((here / "page.css").read_text(encoding="utf-8"))
    return visible(template.render(page=page, style=style))


def inline(text: str) -> Markup:
    """Escape text, and mark `code` as code."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def _data_address(video: bytes) -> str:
    return f"data:video/mp4;base64,{base64.b64encode(video).decode()}"


def _cell_kind(cell: Cell) -> str:
    return "bar" if isinstance(cell, Bar) else "heat" if isinstance(cell, Heat) else "text"
