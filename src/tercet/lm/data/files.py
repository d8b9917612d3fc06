"""The rows of local files: JSON lines, JSON, CSV, TSV and Parquet, text files compressed with gzip too."""

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
from tercet.lm.data.formats import Row
from tercet.lm.data.parquet import Used, parquet_rows

FILE_TYPES = (".jsonl", ".json", ".csv", ".tsv", ".parquet")
MOST_OF_A_LINE = 2**26  # characters; the longest conversations have a few millions
MOST_OF_A_FILE = 2**30  # characters of a .json file, which is read whole
MOST_GROWTH = 200  # times its size that a compressed file may unpack to, where that is more; text packs 3 to 20 times
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
    """Which of FILE_TYPES a path names, in capitals or compressed as well; empty where it names none."""
    name = path.lower()
    inner = Path(name.removesuffix(".gz")).suffix
    return inner if inner in FILE_TYPES and not (inner == ".parquet" and name.endswith(".gz")) else ""


def stem(path: str) -> str:
    """The file's name without its folder and its type."""
    path = path[:-3] if path.lower().endswith(".gz") else path
    return Path(path).stem


def all_of(names: Collection[str]) -> Collection[str]:
    """All columns are read."""
    return names


def local_rows(path: Path, kind: str = "", *, used: Used = all_of) -> Iterator[tuple[str, Row]]:
    """The rows of a local file with their places; it is read as `kind`, or as what its name says.

    `used` chooses the columns that a Parquet file is read for. InputError where the file or a row is damaged, and
    where a name stands twice in an object or a header.
    """
    require_file(path)
    readers = {".jsonl": _jsonl_rows, ".json": _json_rows, ".parquet": lambda path: parquet_rows(path, used)}
    kind = kind or file_type(str(path))
    if not kind:
        raise InputError(f"{path}: a data file ends in {KNOWN}; rename or convert it")
    try:
        try:
            yield from readers[kind](path) if kind in readers else _table_rows(path, "\t" if kind == ".tsv" else ",")
        except UnicodeDecodeError as error:  # its own number counts from the start of the last block that was read
            if _begins_as_gzip(path):
                raise InputError(f"{path}: holds compressed data (gzip); unpack it once") from error
            line = _undecodable_line(path)
            raise InputError(f"{path}:{line}: the text is not UTF-8; save the file as UTF-8") from error
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise InputError(f"{path}: no readable gzip file ({error}); compress it again") from error


def is_folder(path: str | Path) -> bool:
    """Return True if the path is a folder; a name that no file can have is none."""
    return os.path.isdir(path)  # noqa: PTH112  # pathlib raises where a name is too long


def is_regular(path: str | Path) -> bool:
    """Return True if the path is a regular file, or a link to one."""
    return os.path.isfile(path)  # noqa: PTH113


def require_file(path: Path) -> None:
    """InputError unless the path is a regular file, or a link to one; a pipe or a device would be read forever."""
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
    """The files in a folder and in those within it, sorted; InputError where there are too many of them.

    Links are followed, but not in a circle. What has the name of a data file must be a regular file.
    """
    found: list[Path] = []
    waiting: list[tuple[Path, frozenset[tuple[int, int]]]] = [(folder, frozenset())]  # with the folders around it
    num = 0
    try:
        while waiting:
            place, around = waiting.pop()
            state = place.stat()
            if (state.st_dev, state.st_ino) in around:
                raise InputError(f"{place}: a link leads back to a folder around it; remove the link")
            around |= {(state.st_dev, state.st_ino)}
            with os.scandir(place) as entries:
                for entry in entries:
                    num += 1
                    if num > MOST_IN_FOLDER:
                        raise InputError(
                            f"{folder}: holds more than {MOST_IN_FOLDER:,} files; give the folder of the data set alone"
                        )
                    if entry.is_dir():
                        waiting.append((Path(entry), around))
                        continue
                    if file_type(entry.name):
                        require_file(Path(entry))
                    found.append(Path(entry))
    except OSError as error:
        raise InputError(f"{folder}: cannot be listed ({_reason(error)}: {error.filename})") from error
    return sorted(found)


def nearest(path: Path) -> str:
    """Names in the same folder that the user may have meant."""
    if not is_folder(path.parent):
        return f", and no folder {path.parent}"
    files = [other.name for other in path.parent.iterdir() if file_type(other.name)]
    near = get_close_matches(path.name, files, n=3, cutoff=0.5) or sorted(files)[:3]
    return f"; beside it are {', '.join(near)}" if near else f"; {path.parent.resolve()} holds no data files"


def _jsonl_rows(path: Path) -> Iterator[tuple[str, Row]]:
    """One object a line; blank lines are passed over."""
    for number, line in enumerate(_lines(path), start=1):
        place = f"{path}:{number}"
        if text := line.strip().removeprefix("\ufeff"):  # files with a byte order mark may have been joined
            if text[0] == "[":
                raise InputError(f"{place}: expected an object, found a list; name a file that is one list .json")
            yield place, as_row(strict_json.parse(text, place), place)


def as_row(row: object, place: str) -> Row:
    """The row, where it is an object; InputError with the place else."""
    if not isinstance(row, dict):
        found = f"{json.dumps(row):.40}"
        raise InputError(f'{place}: expected an object with columns, found {found}; write {{"prompt": ...}}')
    return row


def _undecodable_line(path: Path) -> int:
    """The number of the first line that is not UTF-8."""
    with _open_bytes(path) as lines:
        for number, line in enumerate(iter(partial(lines.readline, MOST_OF_A_LINE), b""), start=1):
            try:
                line.decode()
            except UnicodeDecodeError:
                return number
    return 1


def _begins_as_gzip(path: Path) -> bool:
    """Whether the content, after it was unpacked where the name says so, is gzip data."""
    with _open_bytes(path) as file:
        return file.read(2) == b"\x1f\x8b"


def _open_bytes(path: Path) -> gzip.GzipFile | BufferedReader:
    return gzip.GzipFile(path) if path.suffix.lower() == ".gz" else path.open("rb")


def _open(path: Path, newline: str | None = None) -> TextIOWrapper:
    return TextIOWrapper(_open_bytes(path), encoding="utf-8-sig", newline=newline)


def _lines(path: Path, newline: str | None = None) -> Iterator[str]:
    """The lines of a file; InputError where one is too long, or where a compressed file grows beyond all measure."""
    room = max(MOST_OF_A_FILE, MOST_GROWTH * path.stat().st_size)
    with _open(path, newline) as file:
        for number, line in enumerate(iter(partial(file.readline, MOST_OF_A_LINE + 1), ""), start=1):
            room -= len(line)
            if len(line) > MOST_OF_A_LINE:
                raise InputError(
                    f"{path}:{number}: the line has more than {MOST_OF_A_LINE >> 20} Mi characters; cut it"
                )
            if room < 0:
                raise InputError(f"{path}: unpacks to more than {MOST_GROWTH} times its size; no data set does")
            if "\0" in line:
                raise InputError(f"{path}:{number}: holds a NUL, as UTF-16 and binary files do; save the file as UTF-8")
            yield line


def _json_rows(path: Path) -> Iterator[tuple[str, Row]]:
    """A list of objects, alone or as `data` of one object; a file that is really JSON lines is read as such."""
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
    """The object that is the whole text; None where another follows, or where the first line is broken already."""
    try:
        found, end = strict_json.parse_first(text, str(path))
    except InputError as error:
        if isinstance(error.__cause__, json.JSONDecodeError) and error.__cause__.lineno == 1:
            return None
        raise
    return as_row(found, str(path)) if end == len(text) else None


def _table_rows(path: Path, delimiter: str) -> Iterator[tuple[str, Row]]:
    csv.field_size_limit(MOST_OF_A_LINE)  # answers may be longer than the module's 128 KiB
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
    """The names of a table's columns without white space around them, as values lose it; each stands for one column."""
    header = [name.strip() for name in names]
    twice = strict_json.first_repeated(header)
    if twice is not None:
        raise InputError(f"{path}:1: two columns have the name {twice!r}; rename one of them")
    if len(header) == 1 and (other := next((mark for mark in ";\t,|" if mark in header[0]), None)):
        raise InputError(
            f"{path}:1: the columns are parted by {other!r}; save the file with commas as .csv, or with tabs as .tsv"
        )
    return header


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
