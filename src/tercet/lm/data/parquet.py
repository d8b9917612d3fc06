"""The rows of Parquet files and Arrow tables: only the columns in use are read, and a few rows at a time."""

from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

from tercet.errors import InputError, first_line
from tercet.lm.data.formats import Row
from tercet.strict_json import first_repeated

_ROWS_AT_ONCE = 128  # a value may have megabytes, and a small file may hold millions of equal ones
NOT_READ = "(not read)"  # stands in a row for whatever a column holds that nothing reads

Used = Callable[[Collection[str]], Collection[str]]  # from the names of all columns to those of the columns to read


def parquet_rows(path: Path, used: Used) -> Iterator[tuple[str, Row]]:
    """The rows of a file with their places; columns that are not used hold NOT_READ, or None where they are empty."""
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            refuse_duplicates(file.schema_arrow, str(path))
            names = file.schema_arrow.names
            wanted = list(used(names))
            held = _paths_that_hold_something(file.metadata)
            blank = {name: NOT_READ if name in held else None for name in names}
            number = 0
            for batch in file.iter_batches(_ROWS_AT_ONCE, columns=wanted, use_threads=False):
                for row in rows_of(batch, f"{path}", number):
                    yield f"{path}[{number}]", {**blank, **row}
                    number += 1
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(f"{path}: no readable Parquet file ({first_line(error)}); write it again") from error


def rows_of(batch: Any, path: str, first: int) -> Iterator[dict[str, Any]]:  # Any: pyarrow has no types
    """The rows of a record batch whose first row has the number `first`."""
    names = batch.schema.names
    columns = [_values(column, name, path, first) for name, column in zip(names, batch.columns, strict=True)]
    for values in zip(*columns, strict=True):
        yield dict(zip(names, values, strict=True))


def refuse_duplicates(schema: Any, path: str, inside: str = "") -> None:  # Any: an Arrow schema or struct type
    """InputError where two columns, or two fields of one column, have the same name: rows would keep the last."""
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
    except Exception as error:  # dates beyond the years of Python, text that is not UTF-8; each has its own
        for number, value in enumerate(column, first):
            try:
                value.as_py()
            except Exception as own:
                why = f"column {name} holds a value that cannot be read ({first_line(own):.200})"
                raise InputError(f"{path}[{number}]: {why}; mend it or drop the row") from error
        raise


def _paths_that_hold_something(metadata: Any) -> set[str]:  # Any: pyarrow has no types
    """The columns, and fields within them, that are not null or blank in every row, as the file's statistics say."""
    held: set[str] = set()
    for group in map(metadata.row_group, range(metadata.num_row_groups)):
        for column in map(group.column, range(group.num_columns)):
            if column.path_in_schema not in held and _holds_something(column):
                parts = column.path_in_schema.split(".")
                held.update(".".join(parts[:number]) for number in range(1, len(parts) + 1))
    return held


def _holds_something(column: Any) -> bool:  # Any: pyarrow has no types
    """Return False where the statistics of a part of a column say that it is null or blank in every row."""
    statistics = column.statistics
    if statistics is None or not statistics.has_null_count:
        return True
    is_blank = statistics.has_min_max and statistics.min_raw == statistics.max_raw == b""
    return statistics.null_count < column.num_values and not is_blank
