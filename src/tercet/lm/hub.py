"""The rows of hub sets, and of local folders: laid out like a hub set, or written by `save_to_disk`."""

import re
from collections.abc import Iterator
from pathlib import Path

from tercet.config.lm import Source
from tercet.errors import InputError
from tercet.lm.files import as_row, nearest
from tercet.lm.formats import Row


def hub_rows(source: Source) -> Iterator[tuple[str, Row]]:
    """The rows of a hub id or a folder with their places."""
    path = source.path
    if not Path(path).is_dir() and not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", path):
        raise InputError(f"{path}: neither a file, nor a folder, nor a hub id{nearest(Path(path))}")
    import datasets  # slow to import, and only needed here

    datasets.disable_progress_bars()
    try:
        rows = _loaded(source)
    except InputError:
        raise
    except Exception as error:  # the library raises its own, the network's and the file formats' errors
        raise InputError(_why(source, error)) from error
    for number, row in enumerate(rows):
        yield f"{path}[{number}]", as_row(row, f"{path}[{number}]")


def _loaded(source: Source) -> Iterator[object]:
    import datasets

    if any((Path(source.path) / name).is_file() for name in ("state.json", "dataset_dict.json")):
        return _from_disk(source)
    config, split = source.config or None, source.split or "train"
    try:
        return iter(datasets.load_dataset(source.path, config, split=split))
    except RuntimeError as error:
        # a set that is a script (openai/webgpt_comparisons): the hub keeps its rows as Parquet on a branch
        if "scripts are no longer supported" not in str(error):
            raise
        return iter(datasets.load_dataset(source.path, config, split=split, revision="refs/convert/parquet"))


def _from_disk(source: Source) -> Iterator[object]:
    """A set that `save_to_disk` wrote, or one split of several."""
    import datasets

    saved = datasets.load_from_disk(source.path)
    if isinstance(saved, datasets.DatasetDict):
        split = source.split or "train"
        if split not in saved:
            raise InputError(f"{source.path}: has no split {split!r}; set split to one of {', '.join(map(str, saved))}")
        return iter(saved[split])
    if source.split and source.split != str(saved.split):
        raise InputError(f"{source.path}: holds the split {saved.split} alone; leave split={source.split!r} out")
    return iter(saved)


def _why(source: Source, error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    if "Config name is missing" in lines[0]:
        return f"{source.path}: the set has several configurations; set config beside its path ({' '.join(lines[1:2])})"
    which = f"config {source.config!r} and " if source.config else ""
    return (
        f"{source.path}: cannot be read as the hub set with {which}split {source.split or 'train'!r} ({lines[0]}); "
        "check the id and the connection, or give a local .jsonl, .json, .csv, .tsv or .parquet file"
    )
