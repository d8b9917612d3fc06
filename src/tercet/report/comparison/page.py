"""The page of a comparison of algorithms, written from the folders of its runs."""

import json
from pathlib import Path

from tercet.errors import InputError
from tercet.report import render_html, render_markdown
from tercet.report.blocks import Page
from tercet.report.comparison import arm, lm, numbers
from tercet.report.formats import listed
from tercet.report.records import algorithm_title
from tercet.runs.atomic import write_text
from tercet.version import __version__


def write(out: Path) -> Path:
    """Write OUT/report.html, OUT/report.md and OUT/results.json from the runs so far; return the HTML file."""
    plan = numbers.plan_of(out)
    if not plan:
        raise InputError(f"{out}: no comparison (no {numbers.FILE})")
    side = arm if plan["domain"] == "arm" else lm
    found = side.outcomes(out, plan["algorithms"], plan["seeds"])
    algorithms = listed([algorithm_title(one.algorithm) for one in found])
    page = Page(
        title=out.resolve().name,
        subtitle=f"{algorithms} · from one {side.START}" if found else "",
        top=[side.headline(out, found)],
        sections=side.sections(out, found) if found else [],
        footer=f"Made by Tercet {__version__} from the run folders in this folder; results.json holds every figure of "
        "this page, and each run folder has a report of its own.",
    )
    write_text(out / "results.json", json.dumps(side.as_json(out, found), indent=2) + "\n")
    write_text(out / "report.md", render_markdown.render(page))
    html = out / "report.html"
    write_text(html, render_html.render(page))
    return html
