"""Read the rows of Parquet files and Arrow tables: only the columns in use, and a few rows at a time."""

from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

from tercet.errors import InputError, first_line
from tercet.lm.data.cells import Row
from tercet.strict_json import first_repeated

_ROWS_AT_ONCE = 128  # a value may have megabytes, and a small file may hold millions of equal ones
NOT_READ = "(not read)"  # the value in a row of a column that is not read

Used = Callable[[Collection[str]], Collection[str]]  # from the names of all columns to those of the columns to read


def parquet_rows(path: Path, used: Used) -> Iterator[tuple[str, Row]]:
    """Yield the rows of a file with their locations; unused columns are NOT_READ, or None if they are empty."""
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            refuse_duplicates(file.schema_arrow, str(path))
            names = file.schema_arrow.names
            wanted = list(used(names))
            paths = _paths_with_values(file.metadata)
            blank = {name: NOT_READ if name in paths else None for name in names}
            number = 0
            for batch in file.iter_batches(_ROWS_AT_ONCE, columns=wanted, use_threads=False):
                for row in rows_of(batch, f"{path}", number):
                    yield f"{path}[{number}]", {**blank, **row}
                    number += 1
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(f"{path}: no readable Parquet file ({first_line(error)}); write it again") from error


def rows_of(batch: Any, path: str, first: int) -> Iterator[dict[str, Any]]:  # Any: pyarrow has no types
    """Yield the rows of a record batch; `first` is the number of its first row."""
    names = batch.schema.names
    columns = [_values(column, name, path, first) for name, column in zip(names, batch.columns, strict=True)]
    for values in zip(*columns, strict=True):
        yield dict(zip(names, values, strict=True))


def refuse_duplicates(schema: Any, path: str, inside: str = "") -> None:  # Any: an Arrow schema or struct type
    """Raise InputError if two columns, or two fields of a column, have the same name: a row would keep the last."""
    from pyarrow import types

    twice = first_repeated(field.name for field in schema)
    if twice is not None:
        where = f" of {inside}" if inside else ""
        raise InputError(f"{path}: two columns{where} have the name {twice!r}; rename one of them")
    for field in schema:
        kind = field.type
        while types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
            kind = kind.value_type
        if types.is_struct(kind):
            refuse_duplicates(kind, path, f"{inside}.{field.name}".removeprefix("."))


def _values(column: Any, name: str, path: str, first: int) -> list[Any]:  # Any: an Arrow array, and what it holds
    try:
        return column.to_pylist()
    except (
        Exception
    ) as error:  # such as a date after the year 9999, or text that is not UTF-8; each has its own exception
        for number, value in enumerate(column, first):
            try:
                value.as_py()
            except Exception as own:
                why = f"column {name} holds a value that cannot be read ({first_line(own):.200})"
                raise InputError(f"{path}[{number}]: {why}; correct it or remove the row") from error
        raise


def _paths_with_values(metadata: Any) -> set[str]:  # Any: pyarrow has no types
    """Return the columns, and their fields, that have values, according to the statistics of the file."""
    paths: set[str] = set()
    for group in map(metadata.row_group, range(metadata.num_row_groups)):
        for column in map(group.column, range(group.num_columns)):
            if column.path_in_schema not in paths and _has_values(column):
                parts = column.path_in_schema.split(".")
                paths.update(".".join(parts[:number]) for number in range(1, len(parts) + 1))
    return paths


def _has_values(column: Any) -> bool:  # Any: pyarrow has no types
    """Return False if, according to its statistics, a part of a column is null or blank in every row."""
    statistics = column.statistics
    if statistics is None or not statistics.has_null_count:
        return True
    is_blank = statistics.has_min_max and statistics.min_raw == statistics.max_raw == b""
    return statistics.null_count < column.num_values and not is_blank
