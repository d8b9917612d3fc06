"""Read the Parquet files and JSON lines of a recording strictly, and only if they fit into memory."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from tercet import strict_json
from tercet.errors import InputError, first_line
from tercet.runs.machine import spare_memory

_BYTES_PER_NUMBER = 16  # 8 bytes twice: each number is read into one array and copied into another


def read_table(file: Path, columns: Sequence[str] | None) -> pa.Table:
    """Read these columns of a Parquet file, or all. Raises InputError if it is damaged, lacks one, or has one twice."""
    if not file.is_file():
        raise InputError(f"{file}: missing; copy the recording again")
    try:
        with pq.ParquetFile(file) as parquet:
            names = parquet.schema_arrow.names
            wanted = names if columns is None else list(dict.fromkeys(columns))
            if repeated := [name for number, name in enumerate(names) if name in names[:number]]:
                raise InputError(f"{file}: two columns have the name {repeated[0]}; write it again with one of them")
            if missing := [name for name in wanted if name not in names]:
                raise InputError(f"{file}: lacks the column {', '.join(missing)}; copy it again")
            if _num_bytes(parquet.metadata, wanted) > spare_memory() // 2:
                raise InputError(
                    f"{file}: needs more than half of this machine's memory; split or shorten the recording"
                )
            return parquet.read(wanted)
    except InputError:
        raise
    except (pa.ArrowException, OSError, ValueError) as error:
        raise InputError(f"{file}: {_damage(file, error)}; copy it again, or record it again") from error


def read_lines(file: Path, keys: Sequence[str]) -> list[dict[str, Any]]:
    """Read JSON lines, each with these keys. Raises InputError if the file is missing or damaged."""
    if not file.is_file():
        raise InputError(f"{file}: missing; copy the recording again")
    try:
        texts = file.read_text(encoding="utf-8").split("\n")
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: not UTF-8 text ({first_line(error)}); copy it again") from error
    rows = []
    for number, text in enumerate(texts, start=1):
        if not text.strip():
            continue
        try:
            row = strict_json.parse(text, str(number))
        except InputError as error:
            raise InputError(f"{file}: cut off, or not JSON lines (line {error}); copy it again") from error
        if not isinstance(row, dict) or any(key not in row for key in keys):
            raise InputError(f"{file}: line {number} lacks {' or '.join(keys)}; copy it again")
        rows.append(row)
    return rows


def require_counts(file: Path, rows: Iterable[Mapping[str, Any]], names: Sequence[str]) -> None:
    """Raise InputError unless the values of these names are integers >= 0 in every row."""
    for row in rows:
        for name in names:
            if type(row[name]) is not int or row[name] < 0:
                raise InputError(f"{file}: {name} = {row[name]!r:.40} is not a whole number >= 0; copy it again")


def numbers(file: Path, part: pa.Table, name: str, kinds: str) -> NDArray:
    """Return a column of finite numbers of one of numpy's `kinds`. Raises InputError if it is anything else."""
    column = part[name]
    is_number = pa.types.is_integer(column.type) or pa.types.is_floating(column.type)
    values = column.to_numpy() if is_number and not column.null_count else np.array([])
    if values.dtype.kind not in kinds or len(values) < len(column) or not np.isfinite(values).all():
        kind = "whole" if kinds == "iu" else "finite"
        raise InputError(f"{file}: {name} does not hold {kind} numbers alone; copy it again, or record it again")
    return values


def _num_bytes(metadata: Any, columns: Sequence[str]) -> int:  # Any: pyarrow has no types
    """Estimate the memory that these columns need, from the file's metadata."""
    num = 0
    for group in map(metadata.row_group, range(metadata.num_row_groups)):
        for column in map(group.column, range(group.num_columns)):
            if any(column.path_in_schema == name or column.path_in_schema.startswith(f"{name}.") for name in columns):
                num += max(_BYTES_PER_NUMBER * column.num_values, column.total_uncompressed_size)
    return num


def _damage(file: Path, error: Exception) -> str:
    """Describe the damage of a parquet file. A file with the magic bytes only at its start was never closed."""
    with file.open("rb") as opened:
        starts = opened.read(4) == b"PAR1"
        size = opened.seek(0, 2)
        opened.seek(max(0, size - 4))
        ends = opened.read(4) == b"PAR1"
    if starts and not ends:
        return "has no end: its recorder was killed before it closed the file, or it was cut off in copying"
    return f"cut off, or not a parquet file ({first_line(error)})"
