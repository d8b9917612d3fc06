"""Reading a LeRobotDataset folder: numbers by episode, pictures on demand; everything is checked on the way."""

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

_BORDERS = ("dataset_from_index", "dataset_to_index", "length", "data/chunk_index", "data/file_index")


@dataclass(frozen=True)
class Episode:
    """One episode: `columns` (t, size) by feature, pictures aside; `timestamps` (t,) in seconds from its start."""

    index: int
    task: str
    timestamps: NDArray[np.float64]
    columns: Mapping[str, NDArray]

    def __len__(self) -> int:
        return len(self.timestamps)

    def num_missing(self, fps: float) -> int:
        """How many frames were lost within the episode, by the jumps of its time stamps."""
        return int(np.maximum(np.rint(np.diff(self.timestamps) * fps) - 1, 0).sum())


@dataclass(frozen=True)
class Recording:
    """A folder whose meta/ has been read: what it holds, and where each episode lies (`places`, a row each)."""

    path: Path
    info: Info
    tasks: Mapping[int, str]
    places: Sequence[Mapping[str, Any]]  # Any: numbers and lists of words, by the columns of meta/episodes

    def __len__(self) -> int:
        return len(self.places)

    @property
    def picture_keys(self) -> list[str]:
        """The features that hold pictures."""
        return [key for key, feature in self.info.features.items() if feature.is_picture]

    def of_task(self, task: str) -> "Recording":
        """The episodes of one task, or all where `task` is empty and there is no other; InputError where there are."""
        words = [place.get("tasks") or [self._read([place], [])[0].task] for place in self.places]
        known = sorted({word for some in words for word in some})
        if (not task and len(known) < 2) or known == [task]:
            return self
        if task not in known:
            which = f"of no task {task!r}, but of" if task else "demonstrations of several tasks:"
            raise InputError(f"{self.path}: {which} {', '.join(known)}; choose one of them, bc.task='{known[0]}'")
        return replace(self, places=[place for place, some in zip(self.places, words, strict=True) if some == [task]])

    def whole(self, keys: Sequence[str]) -> "Recording":
        """The episodes whose numbers of the features `keys` can be read."""
        places, tables = list[Mapping[str, Any]](), dict[Path, pa.Table]()
        for place in self.places:
            with suppress(InputError, FailedError):  # that says why one is not whole
                self._read([place], keys, tables)
                places.append(place)
        return replace(self, places=places)

    def episodes(self, keys: Sequence[str], *, most: int | None = None) -> list[Episode]:
        """The numbers of the features `keys`, of the first `most` episodes or all."""
        return self._read(self.places[:most], keys)

    def _read(
        self, places: Sequence[Mapping[str, Any]], keys: Sequence[str], tables: dict[Path, pa.Table] | None = None
    ) -> list[Episode]:
        """`tables` keeps the file that was read last, which the next episode may be in."""
        features = {key: self._feature(key) for key in keys}
        tables = {} if tables is None else tables
        found: list[Episode] = []
        for place in places:
            file = self._file(self.info.data_path, place, "data")
            with reading(file):
                if file not in tables:
                    tables.clear()
                    tables[file] = read_table(file, [*keys, "timestamp", "episode_index", "task_index"])
                found.append(self._episode(file, tables[file], place, features))
        return found

    def pictures(
        self, index: int, key: str, steps: Sequence[int], *, fit: Callable[[Picture], Picture] = frames.as_it_is
    ) -> NDArray[np.uint8]:
        """(len(steps), height, width, 3): what a camera saw at ascending steps of an episode, as `fit` makes them."""
        feature, place = self._feature(key), self.places[index]
        if feature.dtype == "image":
            with reading(self.path):
                return self._stills(place, key, steps, fit)
        if feature.dtype != "video":
            raise InputError(f"{self.path}: {key} holds {feature.dtype}, no pictures; it has {self.picture_keys}")
        file = self._file(self.info.video_path, place, f"videos/{key}", video_key=key)
        timestamps = self._read([place], [])[0].timestamps[list(steps)]
        start = place.get(f"videos/{key}/from_timestamp", 0.0)
        if type(start) is not float or not np.isfinite(start):
            raise InputError(f"{file}: meta/episodes says that it starts at {start!r:.40}; copy the recording again")
        moments = [start + float(moment) for moment in timestamps]
        with reading(file):
            return frames.read(file, moments, tolerance=0.5 / self.info.fps, fit=fit)

    def _file(self, pattern: str, place: Mapping[str, Any], part: str, **more: str) -> Path:
        """Where an episode's numbers or pictures lie; in v2 each episode has files of its own."""
        number = place["episode_index"]
        chunk, file = place.get(f"{part}/chunk_index"), place.get(f"{part}/file_index")
        own = number // self.info.chunks_size
        if self.info.version not in OLDER and not (type(chunk) is type(file) is int):
            raise InputError(
                f"{self.path}: meta/episodes does not say where {part} of episode {number} lies; copy it again"
            )
        return self.path / pattern.format(
            chunk_index=chunk, file_index=file, episode_chunk=own, episode_index=number, **more
        )

    def _feature(self, key: str) -> Feature:
        if key not in self.info.features:
            raise InputError(f"{self.path}: has no {key}; it has {', '.join(self.info.features)}")
        return self.info.features[key]

    def _episode(
        self, file: Path, rows_of_all: pa.Table, place: Mapping[str, Any], features: Mapping[str, Feature]
    ) -> Episode:
        number, length = place["episode_index"], place["length"]
        rows = np.flatnonzero(numbers(file, rows_of_all, "episode_index", "iu") == number)
        if len(rows) != length or length < 1 or np.ptp(rows) != length - 1:
            raise InputError(
                f"{file}: {len(rows)} rows of episode {number}, where meta/episodes says {length}; "
                "it was cut off, or belongs to another recording: copy it again"
            )
        part = rows_of_all.slice(int(rows[0]), length)
        columns = {key: _numbers(file, part, key, feature, number) for key, feature in features.items()}
        timestamps = numbers(file, part, "timestamp", "iuf").astype(np.float64)
        if not (np.diff(timestamps) > 0).all():
            raise InputError(f"{file}: timestamps of episode {number} don't rise; record that episode again")
        task = self.tasks.get(int(numbers(file, part, "task_index", "iu")[0]), "")
        return Episode(number, task, timestamps, columns)

    def _stills(
        self, place: Mapping[str, Any], key: str, steps: Sequence[int], fit: Callable[[Picture], Picture]
    ) -> NDArray[np.uint8]:
        """Pictures that lie in the parquet file itself, as PNG or JPEG."""
        file = self._file(self.info.data_path, place, "data")
        stills = read_table(file, [key, "episode_index"])
        rows = np.flatnonzero(numbers(file, stills, "episode_index", "iu") == place["episode_index"])
        try:
            encoded = [stills[key][int(rows[step])].as_py()["bytes"] for step in steps]
            return np.stack([fit(np.asarray(Image.open(io.BytesIO(one)).convert("RGB"))) for one in encoded])
        except (UnidentifiedImageError, Image.DecompressionBombError, OSError, LookupError, TypeError) as error:
            raise InputError(f"{file}: {key} holds pictures that can't be read ({first_line(error)})") from error


def open_recording(path: Path) -> Recording:
    """A recording, its meta/ read; InputError with place and remedy where that is missing, damaged or at odds."""
    info = read_info(path)
    if not info.num_episodes:
        raise InputError(f"{path}: holds no episode yet; record one")
    places = _places(path, info)[: info.num_episodes]  # what a writer that was killed left beyond them does not count
    listed = {place["episode_index"] for place in places}
    if len(listed) < info.num_episodes:
        missing = next(number for number in count() if number not in listed)
        first = f", the first of them {missing}" if missing < info.num_episodes else ""
        raise InputError(
            f"{path}: meta/ lists {len(listed)} episodes, where info.json says {info.num_episodes}: "
            f"{info.num_episodes - len(listed)} are missing{first}; copy the recording again"
        )
    return Recording(path, info, read_tasks(path, info), places)


def whole_part(path: Path, keys: Sequence[str]) -> Recording:
    """What is left of a recording that was broken off: the episodes whose numbers of the features `keys` are whole."""
    info = read_info(path)
    return Recording(path, info, read_tasks(path, info), _places(path, info, damaged=True)).whole(keys)


def _places(path: Path, info: Info, *, damaged: bool = False) -> list[dict[str, Any]]:
    """The rows of meta/episodes, or of meta/episodes.jsonl in v2; with `damaged`, of the files that can be read."""
    if info.version in OLDER:
        places = read_lines(path / OLD_EPISODES, ("episode_index", "length"))
        require_counts(path / OLD_EPISODES, places, ("episode_index", "length"))
        return places
    folder = path / "meta" / "episodes"
    files = sorted(folder.glob("chunk-*/file-*.parquet"))
    if not files and not damaged:
        raise InputError(
            f"{folder}: no parquet files: its recorder was killed before it wrote them, or they were not copied; "
            "copy the recording again, meta/episodes with it, or record it again"
        )
    places: list[dict[str, Any]] = []
    for file in files:
        try:
            with reading(file):
                rows = _listed(file, info)
        except (InputError, FailedError):
            if damaged:
                continue
            raise
        places += rows
    return places


def _listed(file: Path, info: Info) -> list[dict[str, Any]]:
    """The rows of one file of meta/episodes, without the statistics."""
    whole = read_table(file, None)
    wanted = [name for name in whole.column_names if not name.startswith("stats/")]
    missing = [name for name in ("episode_index", *_BORDERS) if name not in wanted]
    if missing:
        raise InputError(f"{file}: lacks {', '.join(missing)}; it is of no {info.robot_type} recording in v3.0")
    rows = whole.select(wanted).to_pylist()
    require_counts(file, rows, ("episode_index", *_BORDERS))
    return rows


def read_tasks(path: Path, info: Info) -> dict[int, str]:
    """The words of each task by its number."""
    file = path / (OLD_TASKS if info.version in OLDER else TASKS)
    with reading(file):
        if info.version in OLDER:
            pairs = [(row["task_index"], row["task"]) for row in read_lines(file, ("task_index", "task"))]
        else:
            whole = read_table(file, None)
            names = [name for name in whole.column_names if name != "task_index"]
            if "task_index" not in whole.column_names or not names:
                raise InputError(f"{file}: lacks task_index, or the tasks' words; copy the recording again")
            pairs = list(zip(whole["task_index"].to_pylist(), whole[names[0]].to_pylist(), strict=True))
    for number, task in pairs:
        if type(number) is not int or not isinstance(task, str):
            raise InputError(f"{file}: task {number!r:.40} is {task!r:.40}, not a text with a number; copy it again")
    return dict(pairs)


def _numbers(file: Path, part: pa.Table, key: str, feature: Feature, number: int) -> NDArray:
    """(t, size) of one feature in one episode, finite and of the size that info.json says."""
    column = part[key].combine_chunks()
    rows = len(column)
    while pa.types.is_list(column.type) or pa.types.is_fixed_size_list(column.type):
        column = column.flatten()
    size = prod(feature.shape)
    values = column.to_numpy(zero_copy_only=False)
    kinds = "biuf" if feature.dtype == "bool" else "iuf"
    if len(values) != rows * size or values.dtype.kind not in kinds:
        raise InputError(f"{file}: {key} of episode {number} is not {size} numbers a step, as info.json says")
    values = values.reshape(rows, size)
    if not np.isfinite(values).all():
        step = int(np.flatnonzero(~np.isfinite(values).all(1))[0])
        raise InputError(
            f"{file}: {key} of episode {number} is not finite at step {step}; remove or record that episode again"
        )
    return values
