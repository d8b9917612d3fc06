"""Read the rows of hub sets and of local folders, which have the layout of a hub set or of `save_to_disk`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from tercet.config.lm import Source
from tercet.errors import InputError, first_line
from tercet.lm.data.cells import Row
from tercet.lm.data.files import all_of, as_row, file_type, folder_files, is_folder, is_regular, local_rows, nearest
from tercet.lm.data.parquet import NOT_READ, Used, refuse_duplicates

if TYPE_CHECKING:
    import datasets


def hub_rows(source: Source, *, used: Used = all_of) -> Iterator[tuple[str, Row]]:
    """Yield the rows of a hub id or a folder with their locations; `used` selects the columns to read.

    Files of a local folder are read by `local_rows`, with its checks, if they have a known type, else by `datasets`.
    """
    path = source.path
    if is_folder(path):
        folder_files(Path(path))
    elif not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", path):
        raise InputError(f"{path}: neither a file, nor a folder, nor a hub id{nearest(Path(path))}")
    import datasets  # slow to import, and only needed here

    datasets.disable_progress_bars()
    try:
        files = _files(source)
        table = None if files else _loaded(source)
    except InputError:
        raise
    except Exception as error:  # the library raises its own, the network's and the file formats' errors
        raise InputError(_why(source, error)) from error
    for file in files:
        yield from local_rows(file, used=used)
    if table is not None:
        yield from _rows(table, path, used)


def _files(source: Source) -> list[Path]:
    """List the files of a split in a local folder; empty if only `datasets` can read it."""
    import datasets

    if not is_folder(source.path) or _is_saved(source):
        return []
    builder = datasets.load_dataset_builder(source.path, source.config or None)
    by_split = builder.config.data_files or {}
    split = source.split or "train"
    if split not in by_split:  # a slice, such as train[:10], or no such split
        return []
    files = [Path(file) for file in by_split[split]]
    return files if all(map(is_regular, files)) and all(file_type(file.name) for file in files) else []


def _rows(table: datasets.Dataset, path: str, used: Used) -> Iterator[tuple[str, Row]]:
    """Yield the rows of a set that `datasets` has loaded; only the columns in use are decoded."""
    refuse_duplicates(table.data.schema, path)
    wanted = list(used(table.column_names))
    blank = {
        name: NOT_READ if column.null_count < len(column) else None
        for name, column in zip(table.data.column_names, table.data.columns, strict=True)
    }
    number = -1
    try:
        for number, row in enumerate(table.select_columns(wanted)):
            yield f"{path}[{number}]", {**blank, **as_row(row, f"{path}[{number}]")}
    except InputError:
        raise
    except Exception as error:  # a value that Python cannot represent, such as a date after the year 9999
        why = f"a value of {', '.join(wanted)} cannot be read ({first_line(error):.200})"
        raise InputError(f"{path}[{number + 1}]: {why}; correct it or remove the row") from error


def _is_saved(source: Source) -> bool:
    return any((Path(source.path) / name).is_file() for name in ("state.json", "dataset_dict.json"))


def _loaded(source: Source) -> datasets.Dataset:
    import datasets

    if _is_saved(source):
        return _from_disk(source)
    config, split = source.config or None, source.split or "train"
    try:
        return datasets.load_dataset(source.path, config, split=split)
    except RuntimeError as error:
        # a set that is a script (openai/webgpt_comparisons): the hub keeps its rows as Parquet on a branch
        if "scripts are no longer supported" not in str(error):
            raise
        return datasets.load_dataset(source.path, config, split=split, revision="refs/convert/parquet")


def _from_disk(source: Source) -> datasets.Dataset:
    """Load a set that `save_to_disk` wrote, or one of its splits."""
    import datasets

    saved = datasets.load_from_disk(source.path)
    if isinstance(saved, datasets.DatasetDict):
        split = source.split or "train"
        if split not in saved:
            raise InputError(f"{source.path}: has no split {split!r}; set split to one of {', '.join(map(str, saved))}")
        return saved[split]
    if source.split and source.split != str(saved.split):
        raise InputError(f"{source.path}: holds the split {saved.split} alone; leave split={source.split!r} out")
    return saved


def _why(source: Source, error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    if "Config name is missing" in lines[0]:
        return f"{source.path}: the set has several configurations; set config beside its path ({' '.join(lines[1:2])})"
    which = f"config {source.config!r} and " if source.config else ""
    return (
        f"{source.path}: cannot be read as the hub set with {which}split {source.split or 'train'!r} ({lines[0]}); "
        "check the id and the connection, or give a local .jsonl, .json, .csv, .tsv or .parquet file"
    )
