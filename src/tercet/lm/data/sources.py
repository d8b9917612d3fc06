"""Data sets become lists of examples: local files, hub ids and the built-in set; every row that fails has a place."""

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from sys import getsizeof
from typing import TypeVar

from tercet.config.lm import Source
from tercet.errors import InputError, reading
from tercet.lm.data.chatterbot import read_chatterbot
from tercet.lm.data.examples import Example
from tercet.lm.data.files import file_type, is_folder, is_regular, local_rows
from tercet.lm.data.formats import Parts, Row, RowReader, listed
from tercet.lm.data.hub import hub_rows
from tercet.lm.data.turns import Fault, UnusableRowError
from tercet.runs.machine import spare_memory

Given = TypeVar("Given")
Result = TypeVar("Result")
BUILT_IN = "chatterbot"
BLANK = Fault(
    "no prompt or no answer",
    "fill them in, drop them, or map the right columns with data.columns={prompt: ..., chosen: ...}",
)
_BYTES_OF_AN_EXAMPLE, _BYTES_OF_A_MESSAGE = 350, 150  # without their texts
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
    reader = RowReader(columns)

    def used(names: Collection[str]) -> list[str]:
        return _at(source.path, reader.used, names)

    rows = local_rows(Path(source.path), used=used) if is_local else hub_rows(source, used=used)
    examples: list[Example] = []
    faulty: Counter[Fault] = Counter()
    first: dict[Fault, str] = {}  # where each fault was seen first
    num_rows, room = 0, spare_memory() // 2  # the other half is for what the steps make of the examples
    for place, row in _in_order(rows, source.path):
        num_rows += 1
        try:
            parts = _at(place, reader.parts, row)
        except UnusableRowError as error:
            faulty[error.fault] += 1
            first.setdefault(error.fault, place)
            continue
        if _lacks_something(parts, needs_answer=needs_answer):
            faulty[BLANK] += 1
            first.setdefault(BLANK, f"{place}, columns {listed(row)}")
            continue
        rejected = parts.rejected
        if parts.chosen == rejected:
            rejected = None
            if is_local:
                faulty[EQUAL] += 1
                first.setdefault(EQUAL, place)
        examples.append(Example(parts.messages, parts.chosen, rejected, name, place))
        room -= _num_bytes(examples[-1])
        if room < 0:
            raise InputError(
                f"{place}: the set needs more memory than this machine can spare: {num_rows:,} rows take half of it; "
                "give a part of its rows, or a machine with more memory"
            )
    if not num_rows:
        raise InputError(f"{source.path}: the set is empty; give one with rows, or take it out of the config")
    if faulty and (is_local or not examples):
        ((fault, number),) = faulty.most_common(1)
        raise InputError(
            f"{source.path}: {fault.reason} in {number} of {num_rows} rows (first: {first[fault]}); {fault.remedy}"
        )
    return Reading(examples, {fault.reason: number for fault, number in faulty.items()}, tuple(reader.unread))


def is_file(source: Source) -> bool:
    """Whether the set is a local file, there or not, and not a hub id or a folder."""
    return not is_folder(source.path) and (is_regular(source.path) or bool(file_type(source.path)))


def _in_order(rows: Iterator[tuple[str, Row]], path: str) -> Iterator[tuple[str, Row]]:
    """The rows; an exception that nobody foresaw names the place that was read last."""
    place = path
    try:
        for place, row in rows:
            yield place, row
    except Exception:
        with reading(path if place == path else f"{path}, behind {place}"):
            raise


def _at(place: str, work: Callable[[Given], Result], given: Given) -> Result:
    """What `work` makes of a row, or of the columns of all rows; the error has the place in front of it."""
    try:
        return work(given)
    except UnusableRowError:
        raise
    except InputError as error:
        raise InputError(f"{place}: {error}") from error
    except Exception:
        with reading(place):
            raise


def _num_bytes(example: Example) -> int:
    """About what an example takes in memory."""
    texts = [example.chosen, example.rejected or "", example.place]
    texts += [text for message in example.messages for text in (message.text, message.tools)]
    return _BYTES_OF_AN_EXAMPLE + _BYTES_OF_A_MESSAGE * len(example.messages) + sum(map(getsizeof, texts))


def _lacks_something(parts: Parts, *, needs_answer: bool) -> bool:
    """No question, or no answer where one is needed: by the step, or because there is a worse one."""
    is_asked = any(message.role == "user" and message.text for message in parts.messages)
    return not is_asked or (not parts.chosen and (needs_answer or parts.rejected is not None))
