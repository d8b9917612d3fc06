"""Data sets become lists of examples: local files, hub ids and the built-in set; every row that fails has a place."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tercet.config.lm import Source
from tercet.errors import InputError
from tercet.lm.chatterbot import read_chatterbot
from tercet.lm.examples import Example
from tercet.lm.files import file_type, local_rows
from tercet.lm.formats import Parts, Row, RowReader
from tercet.lm.hub import hub_rows
from tercet.lm.turns import Fault, UnusableRowError

BUILT_IN = "chatterbot"
BLANK = Fault(
    "no prompt or no answer",
    "fill them in, drop them, or map the right columns with data.columns={prompt: ..., chosen: ...}",
)
EQUAL = Fault("chosen == rejected", "drop them or relabel them")


@dataclass(frozen=True)
class Reading:
    """The examples of one set, how many rows were left out of it, by reason, and the columns that nothing reads."""

    examples: list[Example]
    dropped: dict[str, int] = field(default_factory=dict)
    unread: tuple[str, ...] = ()


def read(source: Source, *, name: str, columns: Mapping[str, str], needs_answer: bool) -> Reading:
    """Every example of a data set called `name`; InputError with the place where a row is not what it must be.

    `columns` maps our names (prompt, chosen, rejected, messages, ...) to the file's. A local file with rows that are no
    examples (no answer where `needs_answer`, pairs that compare nothing) is refused: its owner can mend it. In a hub
    set equal answers are ties (kept without a preference), and other such rows are left out and counted.
    """
    is_local = is_file(source)
    for key in ("split", "config"):
        if (value := getattr(source, key)) and (is_local or source.path == BUILT_IN):
            raise InputError(f"{source.path}: has no {key} {value!r}, as hub sets have; leave {key} out")
    if source.path == BUILT_IN:
        return Reading(read_chatterbot(name, needs_answer=needs_answer))
    rows = local_rows(Path(source.path)) if is_local else hub_rows(source)
    reader = RowReader(columns)
    examples: list[Example] = []
    faulty: dict[Fault, list[str]] = {}
    num_rows = 0
    for place, row in rows:
        num_rows += 1
        try:
            parts = _parts_at(place, row, reader)
        except UnusableRowError as error:
            faulty.setdefault(error.fault, []).append(place)
            continue
        if _lacks_something(parts, needs_answer=needs_answer):
            faulty.setdefault(BLANK, []).append(f"{place}, columns {', '.join(map(str, row))}")
            continue
        rejected = parts.rejected
        if parts.chosen == rejected:
            rejected = None
            if is_local:
                faulty.setdefault(EQUAL, []).append(place)
        examples.append(Example(parts.messages, parts.chosen, rejected, name, place))
    if not num_rows:
        raise InputError(f"{source.path}: the set is empty; give one with rows, or take it out of the config")
    if faulty and (is_local or not examples):
        fault, places = max(faulty.items(), key=lambda item: len(item[1]))
        raise InputError(
            f"{source.path}: {fault.reason} in {len(places)} of {num_rows} rows (first: {places[0]}); {fault.remedy}"
        )
    return Reading(examples, {fault.reason: len(places) for fault, places in faulty.items()}, tuple(reader.unread))


def is_file(source: Source) -> bool:
    """Whether the set is a local file, there or not, and not a hub id or a folder."""
    return not Path(source.path).is_dir() and (Path(source.path).is_file() or bool(file_type(source.path)))


def _parts_at(place: str, row: Row, reader: RowReader) -> Parts:
    try:
        return reader.parts(row)
    except UnusableRowError:
        raise
    except (ValueError, KeyError, TypeError) as error:  # InputError is a ValueError; the others come from odd values
        why = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
        raise InputError(f"{place}: {why}") from error


def _lacks_something(parts: Parts, *, needs_answer: bool) -> bool:
    """No question, or no answer where one is needed: by the step, or because there is a worse one."""
    is_asked = any(message.role == "user" and message.text for message in parts.messages)
    return not is_asked or (not parts.chosen and (needs_answer or parts.rejected is not None))
