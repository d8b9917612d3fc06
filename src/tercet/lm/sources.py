"""Data sets become lists of examples: local files, hub ids and the built-in set; every row that fails has a place."""

import csv
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from itertools import chain
from pathlib import Path

from tercet.config.lm import Source
from tercet.errors import InputError
from tercet.lm.chatterbot import read_chatterbot
from tercet.lm.examples import Example
from tercet.lm.formats import Parts, Row, parts_of

FILE_TYPES = (".jsonl", ".json", ".csv", ".parquet")
_BUILT_IN = "chatterbot"


@dataclass(frozen=True)
class Reading:
    """The examples of one set, and how many rows were left out of it, by reason."""

    examples: list[Example]
    dropped: dict[str, int] = field(default_factory=dict)


def read(source: Source, *, name: str, columns: Mapping[str, str], needs_answer: bool) -> Reading:
    """Every example of a data set called `name`; InputError with the place where a row is not what it must be.

    `columns` maps our names (prompt, chosen, rejected, messages) to the file's. A local file whose chosen and rejected
    answers are equal, or whose answers are missing where `needs_answer`, is refused: its owner can mend it. In a hub
    set such rows are ties (kept without a preference) or are left out and counted.
    """
    if source.path == _BUILT_IN:
        return Reading(read_chatterbot(name, needs_answer=needs_answer))
    is_local = Path(source.path).is_file() or Path(source.path).suffix in FILE_TYPES
    rows = _local_rows(Path(source.path)) if is_local else _hub_rows(source.path, source.split or "train")
    examples: list[Example] = []
    equal: list[str] = []
    blank: list[str] = []
    for place, row in rows:
        parts = _parts_at(place, row, columns)
        if _lacks_something(parts, needs_answer=needs_answer):
            blank.append(f"{place}, columns {', '.join(map(str, row))}")
            continue
        rejected = parts.rejected
        if parts.chosen == rejected:
            equal.append(place)
            rejected = None
        examples.append(Example(parts.messages, parts.chosen, rejected, name, place))
    num_rows = len(examples) + len(blank)
    if not num_rows:
        raise InputError(f"{source.path}: the set is empty; give one with rows, or take it out of the config")
    if is_local:
        _refuse_equal_and_blank(source.path, num_rows, equal, blank)
    if not examples:
        raise InputError(f"{source.path}: none of {num_rows} rows has a prompt with an answer (first: {blank[0]})")
    return Reading(examples, {"no prompt or no answer": len(blank)} if blank else {})


def _parts_at(place: str, row: Row, columns: Mapping[str, str]) -> Parts:
    try:
        return parts_of(row, columns)
    except (ValueError, KeyError, TypeError) as error:  # InputError is a ValueError; the others come from odd values
        why = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
        raise InputError(f"{place}: {why}") from error


def _lacks_something(parts: Parts, *, needs_answer: bool) -> bool:
    """No question, or no answer where one is needed: by the step, or because there is a worse one."""
    is_asked = any(message.role == "user" for message in parts.messages)
    return not is_asked or (not parts.chosen and (needs_answer or parts.rejected is not None))


def _refuse_equal_and_blank(path: str, num_rows: int, equal: list[str], blank: list[str]) -> None:
    if equal:
        raise InputError(
            f"{path}: {len(equal)} of {num_rows} pairs have chosen == rejected (first: {equal[0]}); "
            "drop them or relabel them"
        )
    if blank:
        raise InputError(
            f"{path}: {len(blank)} of {num_rows} rows have no prompt or no chosen answer (first: {blank[0]}); "
            "fill them in, drop them, or map the right columns with data.columns={prompt: ..., chosen: ...}"
        )


def _local_rows(path: Path) -> Iterator[tuple[str, Row]]:
    """The rows of a local file with their places."""
    if not path.is_file():
        raise InputError(f"{path}: there is no such file{_nearest(path)}")
    readers = {".jsonl": _jsonl_rows, ".json": _json_rows, ".csv": _csv_rows, ".parquet": _parquet_rows}
    if path.suffix not in readers:
        raise InputError(f"{path}: a data file ends in {', '.join(FILE_TYPES)}; rename or convert it")
    try:
        yield from readers[path.suffix](path)
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: byte {error.start} is not UTF-8; save the file as UTF-8") from error


def _nearest(path: Path) -> str:
    """Names in the same folder that the user may have meant."""
    if not path.parent.is_dir():
        return f", and no folder {path.parent}"
    files = [other.name for other in path.parent.iterdir() if other.suffix in FILE_TYPES]
    near = get_close_matches(path.name, files, n=3, cutoff=0.5) or sorted(files)[:3]
    return f"; beside it are {', '.join(near)}" if near else f"; {path.parent.resolve()} holds no data files"


def _jsonl_rows(path: Path) -> Iterator[tuple[str, Row]]:
    with path.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                yield f"{path}:{number}", _object(_parsed(line.strip(), f"{path}:{number}"), f"{path}:{number}")


def _json_rows(path: Path) -> Iterator[tuple[str, Row]]:
    """One list of objects; a file that is really JSON lines under the wrong name is read as such."""
    text = path.read_text(encoding="utf-8-sig")
    if text.lstrip()[:1] == "{":
        yield from _jsonl_rows(path)
        return
    rows = _parsed(text, str(path)) if text.strip() else []
    if not isinstance(rows, list):
        raise InputError(f"{path}: holds {type(rows).__name__}; a .json file is a list of objects")
    for number, row in enumerate(rows):
        yield f"{path}[{number}]", _object(row, f"{path}[{number}]")


def _parsed(text: str, place: str) -> object:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        where = place if error.lineno == 1 else f"{place}:{error.lineno}"
        fault = f"{error.msg}, column {error.colno}"
        raise InputError(f"{where}: broken JSON ({fault}); mend the line or drop it") from error


def _object(row: object, place: str) -> Row:
    if not isinstance(row, dict):
        raise InputError(f"{place}: expected an object with columns, found {type(row).__name__}")
    return row


def _csv_rows(path: Path) -> Iterator[tuple[str, Row]]:
    csv.field_size_limit(2**31 - 1)  # answers may be longer than the module's 128 KiB
    with path.open(encoding="utf-8-sig", newline="") as lines:
        reader = csv.DictReader(lines, strict=True)
        line = 2
        try:
            for row in reader:
                if None in row or None in row.values():
                    raise InputError(f"{path}:{line}: the row has more or fewer fields than the header")
                yield f"{path}:{line}", row
                line = reader.line_num + 1
        except csv.Error as error:
            raise InputError(f"{path}:{line}: broken CSV ({error})") from error


def _parquet_rows(path: Path) -> Iterator[tuple[str, Row]]:
    import pyarrow
    import pyarrow.parquet

    try:
        batches = pyarrow.parquet.ParquetFile(path).iter_batches()
        rows = chain.from_iterable(batch.to_pylist() for batch in batches)
        for number, row in enumerate(rows):
            yield f"{path}[{number}]", row
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(f"{path}: no readable Parquet file ({error})") from error


def _hub_rows(path: str, split: str) -> Iterator[tuple[str, Row]]:
    """The rows of a hub id, or of a local folder laid out like one."""
    if not Path(path).is_dir() and not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", path):
        raise InputError(f"{path}: neither a file, nor a folder, nor a hub id{_nearest(Path(path))}")
    import datasets  # slow to import, and only needed here

    datasets.disable_progress_bars()
    try:
        rows = _loaded(path, split)
    except Exception as error:  # the library raises its own, the network's and the file formats' errors
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(
            f"{path}: cannot be read as the hub set with split {split!r} ({reason}); "
            "check the id and the connection, or give a local .jsonl, .json, .csv or .parquet file"
        ) from error
    for number, row in enumerate(rows):
        yield f"{path}[{number}]", _object(row, f"{path}[{number}]")


def _loaded(path: str, split: str) -> Iterator[object]:
    import datasets

    try:
        return iter(datasets.load_dataset(path, split=split))
    except RuntimeError as error:
        # a set that is a script (openai/webgpt_comparisons): the hub keeps its rows as Parquet on a branch
        if "scripts are no longer supported" not in str(error):
            raise
        return iter(datasets.load_dataset(path, split=split, revision="refs/convert/parquet"))
