"""Read the rows of local files: JSON lines, JSON, CSV, TSV and Parquet; text files may be compressed with gzip."""

import csv
import gzip
import json
import os
import stat
import zlib
from collections.abc import Collection, Iterator, Sequence
from difflib import get_close_matches
from functools import partial
from io import BufferedReader, TextIOWrapper
from pathlib import Path

from tercet import strict_json
from tercet.errors import InputError
from tercet.lm.data.cells import Row
from tercet.lm.data.parquet import Used, parquet_rows

FILE_TYPES = (".jsonl", ".json", ".csv", ".tsv", ".parquet")
MOST_OF_A_LINE = 2**26  # characters; the longest conversations have a few millions
MOST_OF_A_FILE = 2**30  # characters of a .json file, which is read whole
MOST_GROWTH = (
    200  # a compressed file may unpack to this many times its size, if that is more; text compresses 3 to 20 times
)
MOST_IN_FOLDER = 10_000  # files and folders
_KINDS = {
    stat.S_ISDIR: "a folder",
    stat.S_ISFIFO: "a named pipe",
    stat.S_ISSOCK: "a socket",
    stat.S_ISCHR: "a device",
    stat.S_ISBLK: "a device",
}
KNOWN = f"{', '.join(FILE_TYPES)}; all but .parquet also with .gz behind"


def file_type(path: str) -> str:
    """Return the type in FILE_TYPES of a path, which may be in capitals or compressed; empty if it has none."""
    name = path.lower()
    inner = Path(name.removesuffix(".gz")).suffix
    return inner if inner in FILE_TYPES and not (inner == ".parquet" and name.endswith(".gz")) else ""


def stem(path: str) -> str:
    """Return the name of the file without its folder and its type."""
    path = path[:-3] if path.lower().endswith(".gz") else path
    return Path(path).stem


def all_of(names: Collection[str]) -> Collection[str]:
    """Select all columns."""
    return names


def local_rows(path: Path, kind: str = "", *, used: Used = all_of) -> Iterator[tuple[str, Row]]:
    """Yield the rows of a local file with their locations; `kind` is the file's type if its name does not show it.

    `used` selects the columns to read from a Parquet file. InputError if the file or a row is damaged, or if a name
    occurs twice in an object or a header.
    """
    require_file(path)
    readers = {".jsonl": _jsonl_rows, ".json": _json_rows, ".parquet": lambda path: parquet_rows(path, used)}
    kind = kind or file_type(str(path))
    if not kind:
        raise InputError(f"{path}: a data file ends in {KNOWN}; rename or convert it")
    try:
        try:
            yield from readers[kind](path) if kind in readers else _table_rows(path, "\t" if kind == ".tsv" else ",")
        except UnicodeDecodeError as error:  # its position is relative to the last block that was read
            if _begins_as_gzip(path):
                raise InputError(f"{path}: holds compressed data (gzip); unpack it once") from error
            line = _undecodable_line(path)
            raise InputError(f"{path}:{line}: the text is not UTF-8; save the file as UTF-8") from error
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise InputError(f"{path}: no readable gzip file ({error}); compress it again") from error


def is_folder(path: str | Path) -> bool:
    """Return True if the path is a folder; False for a name that is too long for a file."""
    return os.path.isdir(path)  # noqa: PTH112  # pathlib raises if a name is too long


def is_regular(path: str | Path) -> bool:
    """Return True if the path is a regular file, or a link to one."""
    return os.path.isfile(path)  # noqa: PTH113


def require_file(path: Path) -> None:
    """Raise InputError unless the path is a regular file or a link to one; reading a pipe or a device may never end."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError as error:
        raise InputError(f"{path}: there is no such file{nearest(path)}") from error
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise InputError(f"{str(path)!r:.200}: cannot be opened ({_reason(error)}); give another file") from error
    if not stat.S_ISREG(mode):
        kind = next((name for is_kind, name in _KINDS.items() if is_kind(mode)), "something else")
        raise InputError(f"{path}: is {kind}, not a regular file; give a file with the rows in it")


def folder_files(folder: Path) -> list[Path]:
    """List the files in a folder and its subfolders, sorted. InputError if there are too many.

    Links are followed; a link to a parent folder is an InputError. A file with the name of a data file must be regular.
    """
    files: list[Path] = []
    pending: list[tuple[Path, frozenset[tuple[int, int]]]] = [(folder, frozenset())]  # with the folders around it
    num = 0
    try:
        while pending:
            location, parents = pending.pop()
            state = location.stat()
            if (state.st_dev, state.st_ino) in parents:
                raise InputError(f"{location}: a link leads back to a folder around it; remove the link")
            parents |= {(state.st_dev, state.st_ino)}
            with os.scandir(location) as entries:
                for entry in entries:
                    num += 1
                    if num > MOST_IN_FOLDER:
                        raise InputError(
                            f"{folder}: holds more than {MOST_IN_FOLDER:,} files; give the folder of the data set alone"
                        )
                    if entry.is_dir():
                        pending.append((Path(entry), parents))
                        continue
                    if file_type(entry.name):
                        require_file(Path(entry))
                    files.append(Path(entry))
    except OSError as error:
        raise InputError(f"{folder}: cannot be listed ({_reason(error)}: {error.filename})") from error
    return sorted(files)


def nearest(path: Path) -> str:
    """Suggest names in the same folder that the user may have meant."""
    if not is_folder(path.parent):
        return f", and no folder {path.parent}"
    files = [other.name for other in path.parent.iterdir() if file_type(other.name)]
    near = get_close_matches(path.name, files, n=3, cutoff=0.5) or sorted(files)[:3]
    return f"; beside it are {', '.join(near)}" if near else f"; {path.parent.resolve()} holds no data files"


def _jsonl_rows(path: Path) -> Iterator[tuple[str, Row]]:
    """Yield one object per line; blank lines are skipped."""
    for number, line in enumerate(_lines(path), start=1):
        location = f"{path}:{number}"
        if text := line.strip().removeprefix(
            "\ufeff"
        ):  # files that start with a byte order mark may have been concatenated
            if text[0] == "[":
                raise InputError(f"{location}: expected an object, found a list; name a file that is one list .json")
            yield location, as_row(strict_json.parse(text, location), location)


def as_row(row: object, location: str) -> Row:
    """Return the row. InputError with the location if it is not an object."""
    if not isinstance(row, dict):
        shown = f"{json.dumps(row):.40}"
        raise InputError(f'{location}: expected an object with columns, found {shown}; write {{"prompt": ...}}')
    return row


def _undecodable_line(path: Path) -> int:
    """Return the number of the first line that is not UTF-8."""
    with _open_bytes(path) as lines:
        for number, line in enumerate(iter(partial(lines.readline, MOST_OF_A_LINE), b""), start=1):
            try:
                line.decode()
            except UnicodeDecodeError:
                return number
    return 1


def _begins_as_gzip(path: Path) -> bool:
    """Return True if the content is gzip data; a file whose name ends in .gz is unpacked first."""
    with _open_bytes(path) as file:
        return file.read(2) == b"\x1f\x8b"


def _open_bytes(path: Path) -> gzip.GzipFile | BufferedReader:
    return gzip.GzipFile(path) if path.suffix.lower() == ".gz" else path.open("rb")


def _open(path: Path, newline: str | None = None) -> TextIOWrapper:
    return TextIOWrapper(_open_bytes(path), encoding="utf-8-sig", newline=newline)


def _lines(path: Path, newline: str | None = None) -> Iterator[str]:
    """Yield the lines of a file. InputError if a line is too long, or if a compressed file unpacks to too much."""
    characters_left = max(MOST_OF_A_FILE, MOST_GROWTH * path.stat().st_size)
    with _open(path, newline) as file:
        for number, line in enumerate(iter(partial(file.readline, MOST_OF_A_LINE + 1), ""), start=1):
            characters_left -= len(line)
            if len(line) > MOST_OF_A_LINE:
                raise InputError(
                    f"{path}:{number}: the line has more than {MOST_OF_A_LINE >> 20} Mi characters; cut it"
                )
            if characters_left < 0:
                raise InputError(f"{path}: unpacks to more than {MOST_GROWTH} times its size; no data set does")
            if "\0" in line:
                raise InputError(f"{path}:{number}: holds a NUL, as UTF-16 and binary files do; save the file as UTF-8")
            yield line


def _json_rows(path: Path) -> Iterator[tuple[str, Row]]:
    """Yield the objects of a list, which may be `data` of one object; a file with JSON lines is read as JSON lines."""
    with _open(path) as file:
        text = file.read(MOST_OF_A_FILE + 1)
    if len(text) > MOST_OF_A_FILE:
        raise InputError(
            f"{path}: has more than {MOST_OF_A_FILE >> 30} Gi characters; save it as .jsonl, read by lines"
        )
    text = text.strip()
    rows: object = []
    if text[:1] == "{":
        rows = _one_object(text, path)
        if rows is None:
            yield from _jsonl_rows(path)
            return
        rows = rows["data"] if isinstance(rows.get("data"), list) else [rows]
    elif text:
        rows = strict_json.parse(text, str(path))
    if not isinstance(rows, list):
        raise InputError(f"{path}: holds {json.dumps(rows):.40}; a .json file is a list of objects")
    for number, row in enumerate(rows):
        yield f"{path}[{number}]", as_row(row, f"{path}[{number}]")


def _one_object(text: str, path: Path) -> Row | None:
    """Return the object that is the whole text; None if another one follows, or if the first line is not JSON."""
    try:
        value, end = strict_json.parse_first(text, str(path))
    except InputError as error:
        if isinstance(error.__cause__, json.JSONDecodeError) and error.__cause__.lineno == 1:
            return None
        raise
    return as_row(value, str(path)) if end == len(text) else None


def _table_rows(path: Path, delimiter: str) -> Iterator[tuple[str, Row]]:
    csv.field_size_limit(MOST_OF_A_LINE)  # responses may be longer than the default of 128 KiB
    reader = csv.DictReader(_lines(path, newline=""), strict=True, delimiter=delimiter)
    line = 1
    try:
        reader.fieldnames = _checked_header(reader.fieldnames or (), path)
        line = 2
        for row in reader:
            if None in row or None in row.values():
                raise InputError(
                    f"{path}:{line}: the row has more or fewer fields than the header; mend the row, and put a field "
                    f"that holds {delimiter!r} or a line end in quotes"
                )
            yield f"{path}:{line}", row
            line = reader.line_num + 1
    except csv.Error as error:
        kind = "TSV" if delimiter == "\t" else "CSV"
        raise InputError(
            f"{path}:{line}: broken {kind} ({error}); put a field that holds a quote in quotes, and write its own twice"
        ) from error


def _checked_header(names: Sequence[str], path: Path) -> list[str]:
    """Strip white space from the names of a table's columns. InputError for a repeated name or a wrong delimiter."""
    header = [name.strip() for name in names]
    repeated = strict_json.first_repeated(header)
    if repeated is not None:
        raise InputError(f"{path}:1: two columns have the name {repeated!r}; rename one of them")
    if len(header) == 1 and (other := next((mark for mark in ";\t,|" if mark in header[0]), None)):
        raise InputError(
            f"{path}:1: the columns are separated by {other!r}; save the file with commas as .csv, or with tabs as .tsv"
        )
    return header


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
