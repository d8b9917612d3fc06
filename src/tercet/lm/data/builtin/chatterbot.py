"""The built-in data set `chatterbot`: short English questions with human replies, from the package chatterbot-corpus.

Only replies that are clean sentences are used (see `is_clean_reply`), and all of those to a question. A missing capital
at the start or end mark is added. A question without a clean reply is a prompt for the steps that need no response.
Requests for programs, statements about the bot ("You are messy") and bare names are left out, because no short response
fits them.

A list in its files is a question with one or several alternative replies. In the two files with dialogues it is a
conversation, of which only the first two turns are used, because later turns depend on earlier ones.
"""

import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import yaml

from tercet.errors import InputError
from tercet.lm.data.examples import Example, Message

_DIALOGUES = {"conversations", "health"}
_LEFT_OUT = {"coding", "psychology"}  # requests for programs without replies; statements about the bot
_ASKS = (
    r"(?!do not)(what|who|whose|where|when|why|how|which|do|does|did|are|is|was|were|have|has|can|could|would|will|"
    r"should)\b"
)
_UNTIDY = r"\bi\b|[.!?] [a-z]|[`_]|\.\.$"  # a lone `i`, a sentence without its capital, code, dots
_LONGEST = 200  # characters, of a question and of a reply


def read_chatterbot(name: str, *, needs_response: bool) -> list[Example]:
    """Read every clean question with each of its clean replies, or with none; locations are `file.yml[item]`."""
    spec = find_spec("chatterbot_corpus")
    if spec is None or not spec.submodule_search_locations:
        raise InputError("the data set `chatterbot` needs a package: pip install chatterbot-corpus")
    folder = Path(spec.submodule_search_locations[0]) / "data" / "english"
    examples: dict[tuple[str, str], Example] = {}  # the package has duplicates: the first of equal pairs is kept
    for path in sorted(file for file in folder.glob("*.yml") if file.stem not in _LEFT_OUT):
        for number, turns in enumerate(_conversations(path)):
            if (
                not isinstance(turns, list)
                or len(turns) < 2
                or not is_clean_question(question := _with_end_mark(turns[0]))
            ):
                continue
            turns_taken = turns[1:2] if path.stem in _DIALOGUES else turns[1:]
            replies = [reply for reply in map(_with_end_mark, turns_taken) if is_clean_reply(reply)]
            for reply in replies or ([] if needs_response else [""]):
                location = f"{path.name}[{number}]"
                messages = (Message("user", question),)
                examples.setdefault((question, reply), Example(messages, reply, None, name, location))
    return list(examples.values())


@cache  # every step of a run reads the set again, and parsing it takes half a second
def _conversations(path: Path) -> list[object]:
    return yaml.safe_load(path.read_text(encoding="utf-8"))["conversations"]


def is_clean_reply(text: str) -> bool:
    """Return True for one line of at least three words that starts and ends as a sentence does, without code."""
    starts_and_ends_well = re.fullmatch(r"[A-Z0-9\"'].*[.!?][\"')]?", text) is not None
    return starts_and_ends_well and len(text) <= _LONGEST and len(text.split()) >= 3 and not re.search(_UNTIDY, text)


def is_clean_question(text: str) -> bool:
    """Return True for one short line that is not all in capitals, is no bare name and no statement about the bot."""
    is_short_line = len(text) <= _LONGEST and "\n" not in text and not text.isupper()
    return is_short_line and len(text.split()) >= (3 if text.endswith(".") else 2) and not text.startswith("You ")


def _tidied(turn: object) -> str:
    """Return a turn with single spaces and a capital first letter; YAML parses some turns as numbers or dates."""
    text = re.sub(r"[^\S\n]+", " ", str(turn)).strip()
    return text[:1].upper() + text[1:] if len(text.split("\n")) == 1 else text


def _with_end_mark(turn: object) -> str:
    """Return the tidied turn, with the question mark or full stop that was forgotten."""
    text = _tidied(turn)
    mark = "?" if re.match(_ASKS, text, re.IGNORECASE) else "."
    return f"{text}{mark}" if text[-1:].isalnum() else text
