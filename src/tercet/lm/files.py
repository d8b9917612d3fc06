"""The rows of local files: JSON lines, JSON, CSV, TSV and Parquet, text files compressed with gzip too."""

import csv
import gzip
import json
import zlib
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from io import TextIOWrapper
from itertools import chain
from pathlib import Path

from tercet.errors import InputError
from tercet.lm.formats import Row

FILE_TYPES = (".jsonl", ".json", ".csv", ".tsv", ".parquet")
KNOWN = f"{', '.join(FILE_TYPES)}; all but .parquet also with .gz behind"


def file_type(path: str) -> str:
    """Which of FILE_TYPES a path names, in capitals or compressed as well; empty where it names none."""
    name = path.lower()
    inner = Path(name.removesuffix(".gz")).suffix
    return inner if inner in FILE_TYPES and not (inner == ".parquet" and name.endswith(".gz")) else ""


def stem(path: str) -> str:
    """The file's name without its folder and its type."""
    path = path[:-3] if path.lower().endswith(".gz") else path
    return Path(path).stem


def local_rows(path: Path, kind: str = "") -> Iterator[tuple[str, Row]]:
    """The rows of a local file with their places; it is read as `kind`, or as what its name says."""
    if not path.is_file():
        raise InputError(f"{path}: there is no such file{nearest(path)}")
    readers = {".jsonl": _jsonl_rows, ".json": _json_rows, ".parquet": _parquet_rows}
    kind = kind or file_type(str(path))
    if not kind:
        raise InputError(f"{path}: a data file ends in {KNOWN}; rename or convert it")
    try:
        yield from readers[kind](path) if kind in readers else _table_rows(path, "\t" if kind == ".tsv" else ",")
    except UnicodeDecodeError as error:  # its own number counts from the start of the last block that was read
        raise InputError(f"{path}:{_undecodable_line(path)}: the text is not UTF-8; save the file as UTF-8") from error
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise InputError(f"{path}: no readable gzip file ({error})") from error


def nearest(path: Path) -> str:
    """Names in the same folder that the user may have meant."""
    if not path.parent.is_dir():
        return f", and no folder {path.parent}"
    files = [other.name for other in path.parent.iterdir() if file_type(other.name)]
    near = get_close_matches(path.name, files, n=3, cutoff=0.5) or sorted(files)[:3]
    return f"; beside it are {', '.join(near)}" if near else f"; {path.parent.resolve()} holds no data files"


def _jsonl_rows(path: Path) -> Iterator[tuple[str, Row]]:
    """One object a line; blank lines are passed over."""
    with _open(path) as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                yield f"{path}:{number}", as_row(_parsed(line.strip(), f"{path}:{number}"), f"{path}:{number}")


def as_row(row: object, place: str) -> Row:
    """The row, where it is an object; InputError with the place else."""
    if not isinstance(row, dict):
        raise InputError(f"{place}: expected an object with columns, found {type(row).__name__}")
    return row


def _undecodable_line(path: Path) -> int:
    """The number of the first line that is not UTF-8."""
    with gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                line.decode()
            except UnicodeDecodeError:
                return number
    return 1


def _open(path: Path, newline: str | None = None) -> TextIOWrapper:
    if path.suffix.lower() == ".gz":
        return TextIOWrapper(gzip.GzipFile(path), encoding="utf-8-sig", newline=newline)
    return path.open(encoding="utf-8-sig", newline=newline)


def _json_rows(path: Path) -> Iterator[tuple[str, Row]]:
    """A list of objects, alone or as `data` of one object; a file that is really JSON lines is read as such."""
    with _open(path) as file:
        text = file.read()
    rows: object = []
    if text.lstrip()[:1] == "{":
        rows = _one_object(text, path)
        if rows is None:
            yield from _jsonl_rows(path)
            return
        rows = rows["data"] if isinstance(rows.get("data"), list) else [rows]
    elif text.strip():
        rows = _parsed(text, str(path))
    if not isinstance(rows, list):
        raise InputError(f"{path}: holds {type(rows).__name__}; a .json file is a list of objects")
    for number, row in enumerate(rows):
        yield f"{path}[{number}]", as_row(row, f"{path}[{number}]")


def _one_object(text: str, path: Path) -> Row | None:
    """The object that is the whole text; None where another follows, or where the first line is broken already."""
    text = text.strip()
    try:
        found, end = json.JSONDecoder().raw_decode(text)
    except json.JSONDecodeError as error:
        if error.lineno == 1:
            return None
        raise _broken(error, str(path)) from error
    return found if end == len(text) else None


def _parsed(text: str, place: str) -> object:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise _broken(error, place) from error


def _broken(error: json.JSONDecodeError, place: str) -> InputError:
    where = place if error.lineno == 1 else f"{place}:{error.lineno}"
    return InputError(f"{where}: broken JSON ({error.msg}, column {error.colno}); mend the line or drop it")


def _table_rows(path: Path, delimiter: str) -> Iterator[tuple[str, Row]]:
    csv.field_size_limit(2**31 - 1)  # answers may be longer than the module's 128 KiB
    with _open(path, newline="") as lines:
        reader = csv.DictReader(lines, strict=True, delimiter=delimiter)
        line = 1
        try:
            reader.fieldnames = _checked_header(reader.fieldnames or (), path)
            line = 2
            for row in reader:
                if None in row or None in row.values():
                    raise InputError(f"{path}:{line}: the row has more or fewer fields than the header")
                yield f"{path}:{line}", row
                line = reader.line_num + 1
        except csv.Error as error:
            kind = "TSV" if delimiter == "\t" else "CSV"
            raise InputError(f"{path}:{line}: broken {kind} ({error})") from error


def _checked_header(names: Sequence[str], path: Path) -> list[str]:
    """The names of a table's columns without white space around them, as values lose it; each stands for one column."""
    header = [name.strip() for name in names]
    twice = next((name for number, name in enumerate(header) if name in header[:number]), None)
    if twice is not None:
        raise InputError(f"{path}:1: two columns have the name {twice!r}; rename one of them")
    if len(header) == 1 and (other := next((mark for mark in ";\t,|" if mark in header[0]), None)):
        raise InputError(
            f"{path}:1: the columns are parted by {other!r}; save the file with commas as .csv, or with tabs as .tsv"
        )
    return header


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
