"""Read and check a LeRobotDataset folder: numbers per episode, images on demand."""

import io
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import count
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from tercet.arm.lerobot import frames
from tercet.arm.lerobot.frames import Picture
from tercet.arm.lerobot.layout import OLD_EPISODES, OLD_TASKS, OLDER, TASKS, Feature, Info, read_info
from tercet.arm.lerobot.tables import numbers, read_lines, read_table, require_counts
from tercet.errors import FailedError, InputError, first_line, reading

_COUNTS = (
    "episode_index",
    "dataset_from_index",
    "dataset_to_index",
    "length",
    "data/chunk_index",
    "data/file_index",
)


@dataclass(frozen=True)
class Episode:
    """One episode: `columns` (t, size) by feature, without images; `timestamps` (t,) in seconds from its start."""

    index: int
    task: str
    timestamps: NDArray[np.float64]
    columns: Mapping[str, NDArray]

    def __len__(self) -> int:
        return len(self.timestamps)

    def num_missing(self, fps: float) -> int:
        """Return how many frames were lost within the episode, by the gaps between its timestamps."""
        return int(np.maximum(np.rint(np.diff(self.timestamps) * fps) - 1, 0).sum())


@dataclass(frozen=True)
class Recording:
    """The metadata of a recording. `entries` holds the row of meta/episodes of each episode, which names its files."""

    path: Path
    info: Info
    tasks: Mapping[int, str]
    entries: Sequence[Mapping[str, Any]]  # Any: numbers and lists of texts, by the columns of meta/episodes

    def __len__(self) -> int:
        return len(self.entries)

    @property
    def picture_keys(self) -> list[str]:
        """Return the features that hold images."""
        return [key for key, feature in self.info.features.items() if feature.is_picture]

    def of_task(self, task: str, *, option: str = "bc.task=") -> "Recording":
        """Select the episodes of one task. Raises InputError if `task` is empty and there are several tasks.

        `option` is where a user gives the task.
        """
        tasks_of = [entry.get("tasks") or [self._read([entry], [])[0].task] for entry in self.entries]
        tasks = sorted({name for names in tasks_of for name in names})
        if (not task and len(tasks) < 2) or tasks == [task]:
            return self
        if task not in tasks:
            problem = f"has no task {task!r}, only" if task else "has demonstrations of several tasks:"
            raise InputError(f"{self.path}: {problem} {', '.join(tasks)}; choose one of them, {option}'{tasks[0]}'")
        selected = [entry for entry, names in zip(self.entries, tasks_of, strict=True) if names == [task]]
        return replace(self, entries=selected)

    def complete_episodes(self, keys: Sequence[str]) -> "Recording":
        """Select the episodes whose numbers of the features `keys` can be read."""
        entries, tables = list[Mapping[str, Any]](), dict[Path, pa.Table]()
        for entry in self.entries:
            with suppress(InputError, FailedError):  # raised for an episode that is damaged
                self._read([entry], keys, tables)
                entries.append(entry)
        return replace(self, entries=entries)

    def episodes(self, keys: Sequence[str], *, max_num: int | None = None) -> list[Episode]:
        """Read the numbers of the features `keys` of all episodes, or of the first `max_num`."""
        return self._read(self.entries[:max_num], keys)

    def _read(
        self, entries: Sequence[Mapping[str, Any]], keys: Sequence[str], tables: dict[Path, pa.Table] | None = None
    ) -> list[Episode]:
        """Read episodes. `tables` caches the last file, because the next episode is often in the same file."""
        features = {key: self._feature(key) for key in keys}
        tables = {} if tables is None else tables
        episodes: list[Episode] = []
        for entry in entries:
            file = self._file(self.info.data_path, entry, "data")
            with reading(file):
                if file not in tables:
                    tables.clear()
                    tables[file] = read_table(file, [*keys, "timestamp", "episode_index", "task_index"])
                episodes.append(self._episode(file, tables[file], entry, features))
        return episodes

    def pictures(
        self, index: int, key: str, steps: Sequence[int], *, fit: Callable[[Picture], Picture] = frames.unchanged
    ) -> NDArray[np.uint8]:
        """Return (len(steps), height, width, 3): images of a camera at ascending steps, each passed to `fit`."""
        feature, entry = self._feature(key), self.entries[index]
        if feature.dtype == "image":
            with reading(self.path):
                return self._stills(entry, key, steps, fit)
        if feature.dtype != "video":
            raise InputError(f"{self.path}: {key} holds {feature.dtype}, not images; images are in {self.picture_keys}")
        file = self._file(self.info.video_path, entry, f"videos/{key}", video_key=key)
        timestamps = self._read([entry], [])[0].timestamps[list(steps)]
        start = entry.get(f"videos/{key}/from_timestamp", 0.0)
        if type(start) is not float or not np.isfinite(start):
            raise InputError(f"{file}: meta/episodes gives {start!r:.40} as its start time; copy the recording again")
        times = [start + float(time) for time in timestamps]
        with reading(file):
            return frames.read(file, times, tolerance=0.5 / self.info.fps, fit=fit)

    def _file(self, pattern: str, entry: Mapping[str, Any], part: str, **more: str) -> Path:
        """Return the file that holds an episode's numbers or images. In v2 each episode has its own files."""
        number = entry["episode_index"]
        chunk, file = entry.get(f"{part}/chunk_index"), entry.get(f"{part}/file_index")
        episode_chunk = number // self.info.chunks_size
        if self.info.version not in OLDER and not (type(chunk) is type(file) is int):
            raise InputError(
                f"{self.path}: meta/episodes does not name the file of {part} of episode {number}; copy it again"
            )
        return self.path / pattern.format(
            chunk_index=chunk, file_index=file, episode_chunk=episode_chunk, episode_index=number, **more
        )

    def _feature(self, key: str) -> Feature:
        if key not in self.info.features:
            raise InputError(f"{self.path}: has no {key}; it has {', '.join(self.info.features)}")
        return self.info.features[key]

    def _episode(
        self, file: Path, table: pa.Table, entry: Mapping[str, Any], features: Mapping[str, Feature]
    ) -> Episode:
        """Cut an episode from the table of its file, and check it."""
        number, length = entry["episode_index"], entry["length"]
        rows = np.flatnonzero(numbers(file, table, "episode_index", "iu") == number)
        if len(rows) != length or length < 1 or np.ptp(rows) != length - 1:
            raise InputError(
                f"{file}: has {len(rows)} rows of episode {number}, but meta/episodes says {length}; "
                "the file was cut off, or belongs to another recording: copy it again"
            )
        part = table.slice(int(rows[0]), length)
        columns = {key: _numbers(file, part, key, feature, number) for key, feature in features.items()}
        timestamps = numbers(file, part, "timestamp", "iuf").astype(np.float64)
        if not (np.diff(timestamps) > 0).all():
            raise InputError(f"{file}: timestamps of episode {number} do not increase; record that episode again")
        task = self.tasks.get(int(numbers(file, part, "task_index", "iu")[0]), "")
        return Episode(number, task, timestamps, columns)

    def _stills(
        self, entry: Mapping[str, Any], key: str, steps: Sequence[int], fit: Callable[[Picture], Picture]
    ) -> NDArray[np.uint8]:
        """Read images that are stored in the parquet file itself, as PNG or JPEG."""
        file = self._file(self.info.data_path, entry, "data")
        stills = read_table(file, [key, "episode_index"])
        rows = np.flatnonzero(numbers(file, stills, "episode_index", "iu") == entry["episode_index"])
        try:
            encoded = [stills[key][int(rows[step])].as_py()["bytes"] for step in steps]
            return np.stack([fit(np.asarray(Image.open(io.BytesIO(one)).convert("RGB"))) for one in encoded])
        except (UnidentifiedImageError, Image.DecompressionBombError, OSError, LookupError, TypeError) as error:
            raise InputError(f"{file}: {key} holds images that cannot be read ({first_line(error)})") from error


def open_recording(path: Path) -> Recording:
    """Read the metadata of a recording. Raises InputError if it is missing, damaged or inconsistent."""
    info = read_info(path)
    if not info.num_episodes:
        raise InputError(f"{path}: contains no episodes; record one")
    entries = _entries(path, info)[: info.num_episodes]  # ignore entries of a writer that was killed
    listed = {entry["episode_index"] for entry in entries}
    if len(listed) < info.num_episodes:
        missing = next(number for number in count() if number not in listed)
        first = f" (the first is {missing})" if missing < info.num_episodes else ""
        raise InputError(
            f"{path}: meta/ lists {len(listed)} episodes, but info.json says {info.num_episodes}; "
            f"episodes missing: {info.num_episodes - len(listed)}{first}; copy the recording again"
        )
    return Recording(path, info, read_tasks(path, info), entries)


def open_complete_episodes(path: Path, keys: Sequence[str]) -> Recording:
    """Open a damaged recording: select the episodes whose numbers of the features `keys` can be read."""
    info = read_info(path)
    entries = _entries(path, info, skip_damaged=True)
    return Recording(path, info, read_tasks(path, info), entries).complete_episodes(keys)


def _entries(path: Path, info: Info, *, skip_damaged: bool = False) -> list[dict[str, Any]]:
    """Read the rows of meta/episodes, or of meta/episodes.jsonl in v2. `skip_damaged` skips unreadable files."""
    if info.version in OLDER:
        entries = read_lines(path / OLD_EPISODES, ("episode_index", "length"))
        require_counts(path / OLD_EPISODES, entries, ("episode_index", "length"))
        return entries
    folder = path / "meta" / "episodes"
    files = sorted(folder.glob("chunk-*/file-*.parquet"))
    if not files and not skip_damaged:
        raise InputError(
            f"{folder}: no parquet files: the recorder was killed before it wrote them, or they were not copied; "
            "copy the recording again, including meta/episodes, or record it again"
        )
    entries: list[dict[str, Any]] = []
    for file in files:
        try:
            with reading(file):
                entries += _entries_of(file)
        except (InputError, FailedError):
            if not skip_damaged:
                raise
    return entries


def _entries_of(file: Path) -> list[dict[str, Any]]:
    """Read the rows of one file of meta/episodes, without the statistics."""
    table = read_table(file, None)
    names = [name for name in table.column_names if not name.startswith("stats/")]
    missing = [name for name in _COUNTS if name not in names]
    if missing:
        raise InputError(f"{file}: lacks {', '.join(missing)}; it is not part of a v3.0 recording: copy it again")
    entries = table.select(names).to_pylist()
    require_counts(file, entries, _COUNTS)
    return entries


def read_tasks(path: Path, info: Info) -> dict[int, str]:
    """Read the name of each task by its number."""
    file = path / (OLD_TASKS if info.version in OLDER else TASKS)
    with reading(file):
        if info.version in OLDER:
            pairs = [(row["task_index"], row["task"]) for row in read_lines(file, ("task_index", "task"))]
        else:
            table = read_table(file, None)
            names = [name for name in table.column_names if name != "task_index"]
            if "task_index" not in table.column_names or not names:
                raise InputError(f"{file}: lacks task_index or the names of the tasks; copy the recording again")
            pairs = list(zip(table["task_index"].to_pylist(), table[names[0]].to_pylist(), strict=True))
    for number, task in pairs:
        if type(number) is not int or not isinstance(task, str):
            raise InputError(f"{file}: task {number!r:.40} has the name {task!r:.40}; copy the recording again")
    return dict(pairs)


def _numbers(file: Path, part: pa.Table, key: str, feature: Feature, number: int) -> NDArray:
    """Return (t, size) of one feature in one episode. Its numbers are finite, and `size` is as in info.json."""
    column = part[key].combine_chunks()
    rows = len(column)
    while pa.types.is_list(column.type) or pa.types.is_fixed_size_list(column.type):
        column = column.flatten()
    size = prod(feature.shape)
    values = column.to_numpy(zero_copy_only=False)
    kinds = "biuf" if feature.dtype == "bool" else "iuf"
    if len(values) != rows * size or values.dtype.kind not in kinds:
        raise InputError(f"{file}: {key} of episode {number} does not have {size} numbers per step, as info.json says")
    values = values.reshape(rows, size)
    if not np.isfinite(values).all():
        step = int(np.flatnonzero(~np.isfinite(values).all(1))[0])
        raise InputError(
            f"{file}: {key} of episode {number} is not finite at step {step}; remove or record that episode again"
        )
    return values
