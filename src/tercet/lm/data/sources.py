"""Read data sets into lists of examples: local files, hub ids and the built-in sets. Errors name the row."""

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from sys import getsizeof
from typing import TypeVar

from tercet.config.lm import Source
from tercet.errors import InputError, reading
from tercet.lm.data.builtin.chatterbot import read_chatterbot
from tercet.lm.data.builtin.chitchat import read_chitchat
from tercet.lm.data.builtin.counting import read_counting
from tercet.lm.data.builtin.reasoning import PREFIX, read_task
from tercet.lm.data.cells import Row, listed
from tercet.lm.data.examples import Example
from tercet.lm.data.files import file_type, is_folder, is_regular, local_rows
from tercet.lm.data.formats import TIE, RowReader
from tercet.lm.data.hub import hub_rows
from tercet.lm.data.parts import Parts
from tercet.lm.data.turns import Fault, UnusableRowError
from tercet.runs.machine import spare_memory

Given = TypeVar("Given")
Result = TypeVar("Result")
BLANK = Fault(
    "no prompt or no response",
    "fill them in, drop them, or map the right columns with data.columns={prompt: ..., chosen: ...}",
)
_BYTES_OF_AN_EXAMPLE, _BYTES_OF_A_MESSAGE = 350, 150  # without the texts
EQUAL = Fault("chosen == rejected", "drop them or relabel them")


@dataclass(frozen=True)
class Reading:
    """The examples of one set, the number of rows left out by reason, and the columns that are not read."""

    examples: list[Example]
    dropped: dict[str, int] = field(default_factory=dict)
    unread: tuple[str, ...] = ()


def read(
    source: Source, *, name: str, columns: Mapping[str, str], needs_response: bool, extra: Collection[str] = ()
) -> Reading:
    """Read every example of a data set called `name`. InputError, with the location, for a malformed row.

    `columns` maps Tercet's column names (prompt, chosen, rejected, messages, ...) to those of the set. `extra` are the
    columns that score functions take. In a local file, rows that are no examples (no response although
    `needs_response`, two equal responses) are an InputError, because the user can correct the file. In a hub set, two
    equal responses are a tie, which has no preference, and other such rows are left out and counted. A row with
    `tie: true` is left out and counted everywhere.
    """
    is_local = is_file(source)
    _refuse_keys_of_hub_sets(source, is_local=is_local)
    if is_built_in(source):
        return Reading(_built_in(source, name, needs_response=needs_response, extra=extra))
    reader, faults = RowReader(columns, extra), _Faults()

    def used(names: Collection[str]) -> list[str]:
        return _at(source.path, reader.used, names)

    rows = local_rows(Path(source.path), used=used) if is_local else hub_rows(source, used=used)
    examples: list[Example] = []
    num_rows, bytes_left = 0, spare_memory() // 2  # the steps need the other half, for token ids
    for location, row in _in_order(rows, source.path):
        num_rows += 1
        parts = _parts(reader, location, row, faults, needs_response=needs_response)
        if parts is None:
            continue
        rejected = None if parts.rejected == parts.chosen else parts.rejected
        if rejected != parts.rejected and is_local:
            faults.add(EQUAL, location)
        ended = (parts.chosen_ended, parts.rejected_ended)
        taken = _at(location, reader.extra, row) if extra else ""
        examples.append(Example(parts.messages, parts.chosen, rejected, name, location, *ended, taken))
        bytes_left -= _num_bytes(examples[-1])
        if bytes_left < 0:
            raise InputError(
                f"{location}: the set needs more memory than this machine can spare: "
                f"{num_rows:,} rows take half of it; "
                "give a part of its rows, or a machine with more memory"
            )
    if not num_rows:
        raise InputError(f"{source.path}: the set is empty; give one with rows, or remove it from the config")
    if is_local or not examples:
        # where there are examples, the user meant a tie, as the row says
        faults.refuse(source.path, num_rows, unless=TIE if examples else None)
    return Reading(examples, faults.by_reason(), tuple(reader.unread))


class _Faults:
    """Why rows are no examples: the number of rows for each reason, and the location of the first."""

    def __init__(self) -> None:
        self._counts: Counter[Fault] = Counter()
        self._first: dict[Fault, str] = {}

    def add(self, fault: Fault, location: str) -> None:
        """Count a row."""
        self._counts[fault] += 1
        self._first.setdefault(fault, location)

    def refuse(self, path: str, num_rows: int, *, unless: Fault | None) -> None:
        """Raise InputError with the most frequent reason, if there is one beside `unless`."""
        refused = Counter({fault: number for fault, number in self._counts.items() if fault is not unless})
        if refused:
            ((fault, number),) = refused.most_common(1)
            raise InputError(
                f"{path}: {fault.reason} in {number} of {num_rows} rows (first: {self._first[fault]}); {fault.remedy}"
            )

    def by_reason(self) -> dict[str, int]:
        """Return the number of rows by reason."""
        return {fault.reason: number for fault, number in self._counts.items()}


def _refuse_keys_of_hub_sets(source: Source, *, is_local: bool) -> None:
    """Raise InputError if a file or a built-in set has a split or a config."""
    for key in ("split", "config"):
        of_task = key == "config" and source.path.startswith(PREFIX)
        if (value := getattr(source, key)) and (is_local or is_built_in(source)) and not of_task:
            raise InputError(f"{source.path}: has no {key} {value!r}, as hub sets have; leave {key} out")


def _built_in(source: Source, name: str, *, needs_response: bool, extra: Collection[str]) -> list[Example]:
    """Read a set for which `is_built_in` is True."""
    if source.path == "chatterbot":
        return read_chatterbot(name, needs_response=needs_response)
    if source.path == "chitchat":
        return read_chitchat(name)
    if source.path == "counting":
        return read_counting(name, columns=extra)
    return read_task(source.path, source.config, name=name, columns=extra)


def _parts(reader: RowReader, location: str, row: Row, faults: _Faults, *, needs_response: bool) -> Parts | None:
    """Read a row; None, and a fault, if it is no example."""
    try:
        parts = _at(location, reader.parts, row)
    except UnusableRowError as error:
        faults.add(error.fault, location)
        return None
    if _lacks_something(parts, needs_response=needs_response):
        faults.add(BLANK, f"{location}, columns {listed(row)}")
        return None
    return parts


def is_built_in(source: Source) -> bool:
    """Return True if the set comes with a package."""
    return source.path in ("chatterbot", "chitchat", "counting") or source.path.startswith(PREFIX)


def is_file(source: Source) -> bool:
    """Return True if the set is a local file, which may be missing, and not a hub id or a folder."""
    return not is_folder(source.path) and (is_regular(source.path) or bool(file_type(source.path)))


def _in_order(rows: Iterator[tuple[str, Row]], path: str) -> Iterator[tuple[str, Row]]:
    """Yield the rows; an unexpected exception names the last row that was read."""
    location = path
    try:
        for location, row in rows:
            yield location, row
    except Exception:
        with reading(path if location == path else f"{path}, after {location}"):
            raise


def _at(location: str, work: Callable[[Given], Result], given: Given) -> Result:
    """Call `work` on a row or on column names; put the location in front of an error's message."""
    try:
        return work(given)
    except UnusableRowError:
        raise
    except InputError as error:
        raise InputError(f"{location}: {error}") from error
    except Exception:
        with reading(location):
            raise


def _num_bytes(example: Example) -> int:
    """Estimate the memory that an example takes."""
    texts = [example.chosen, example.rejected or "", example.location, example.extra]
    texts += [text for message in example.messages for text in (message.text, message.tools)]
    return _BYTES_OF_AN_EXAMPLE + _BYTES_OF_A_MESSAGE * len(example.messages) + sum(map(getsizeof, texts))


def _lacks_something(parts: Parts, *, needs_response: bool) -> bool:
    """Return True if there is no prompt, or no response although the step or a rejected response needs one."""
    has_prompt = any(message.role == "user" and message.text for message in parts.messages)
    return not has_prompt or (not parts.chosen and (needs_response or parts.rejected is not None))
