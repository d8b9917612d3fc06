"""The pages of docs/ as HTML, for pages of a run that link to the formulas; they are the same for every run."""

import re
from functools import cache
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from posixpath import join, normpath, split
from urllib.parse import quote, unquote

from jinja2 import Environment, StrictUndefined
from markdown_it import MarkdownIt
from markdown_it.token import Token
from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route

from tercet.web.guard import Refused
from tercet.web.server import POLICY

_AT = "/docs/"
_POLICY = POLICY.replace("img-src data:", "img-src 'self' data:")
_PICTURES = (".png", ".gif")
# a line with numbers of the page of `tercet inspect`, such as `*On the page of [tercet inspect](inspect.md): ratio.*`
_NUMBERS = re.compile(r"^(\*[^*\n]*\]\(inspect\.md\)[^*\n]*?[:：] *)([^*\n]+?)([.。]\*)$", re.MULTILINE)


@cache
def _pages() -> dict[str, Path]:
    """Return the pages and pictures by their names, such as `zh/ppo.md`: those of the wheel, or of the clone."""
    own, clone = Path(str(files("tercet"))) / "docs", Path(__file__).parents[3] / "docs"
    folder = own if own.is_dir() else clone
    found = (path for path in folder.rglob("*") if path.suffix in (".md", *_PICTURES))
    return {path.relative_to(folder).as_posix(): path for path in found}


def docs_paths() -> list[str]:
    """Return the paths under which the pages are served. They are public, so they need no key."""
    return [_AT + name for name in _pages()]


def docs_routes() -> list[Route]:
    """Return the route of the pages. Only names of the list are served, so that no path leads elsewhere."""

    def page(request: Request) -> Response:
        name = request.path_params["name"]
        if name not in _pages():
            raise Refused(404, "not found", "没有这个地址")
        if name.endswith(_PICTURES):
            return FileResponse(_pages()[name])
        return Response(_html(name), media_type="text/html", headers={"content-security-policy": _POLICY})

    return [Route(_AT + "{name:path}", page)]


@cache
def _html(name: str) -> str:
    text = _pages()[name].read_text(encoding="utf-8")
    language = "zh" if name.startswith("zh/") else "en"
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string((files("tercet.web") / "docs.html.jinja").read_text(encoding="utf-8"))
    body = Markup(_rendered(_with_links_to_numbers(text, language), name))  # markdown-it escapes HTML in the text
    return template.render(title=_title(text), language=language, body=body)


def _title(text: str) -> str:
    return text.partition("\n")[0].removeprefix("# ")


def _with_links_to_numbers(text: str, language: str) -> str:
    """Make each name in a line about numbers a link that shows the number on the page of `tercet inspect`."""

    def link(found: re.Match[str]) -> str:
        return f"{found[1]}[{found[2]}](/?lang={language}#number={quote(found[2])})"

    return _NUMBERS.sub(lambda line: line[1] + re.sub(r"( ?)([^,、]+)", link, line[2]) + line[3], text)


def _rendered(text: str, name: str) -> str:
    """Return the HTML of a page: headings have the ids that links name, links to files that are not served are text."""
    markdown = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = markdown.parse(text)
    for opening, inline in pairwise(tokens):
        if opening.type == "heading_open":
            opening.attrs["id"] = anchor(inline.content)
    for token in tokens:
        if token.children:
            token.children = _links(token.children, name)
    return markdown.renderer.render(tokens, markdown.options, {})


def anchor(title: str) -> str:
    """Return the id of a heading as on GitHub: lower case, hyphens for spaces, no marks."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def _links(tokens: list[Token], page: str) -> list[Token]:
    kept: list[Token] = []
    is_dead = False
    for token in tokens:
        if token.type == "link_open":
            target = str(token.attrs["href"])
            path = normpath(join(split(page)[0], unquote(target.partition("#")[0])))
            is_number, is_elsewhere = target.startswith("/?"), "://" in target
            is_dead = not (is_number or is_elsewhere or target.startswith("#") or path in _pages())
            if is_number:
                token.attrs["target"] = "tercet-inspect"
            elif is_elsewhere:
                token.attrs |= {"target": "_blank", "rel": "noopener noreferrer"}
        if not (is_dead and token.type in ("link_open", "link_close")):
            kept.append(token)
    return kept
