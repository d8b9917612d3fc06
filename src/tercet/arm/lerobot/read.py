"""Reading a LeRobotDataset v3 folder: numbers by episode, pictures on demand; everything is checked on the way."""

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from tercet.arm.lerobot import frames
from tercet.arm.lerobot.frames import Picture
from tercet.arm.lerobot.layout import TASKS, Feature, Info, read_info
from tercet.errors import InputError, first_line

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

    def episodes(self, keys: Sequence[str], *, most: int | None = None) -> list[Episode]:
        """The numbers of the features `keys`, of the first `most` episodes or all."""
        return self._read(self.places[:most], keys)

    def _read(self, places: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> list[Episode]:
        features = {key: self._feature(key) for key in keys}
        tables: dict[Path, pa.Table] = {}
        found: list[Episode] = []
        for place in places:
            file = self.path / self.info.data_path.format(
                chunk_index=place["data/chunk_index"], file_index=place["data/file_index"]
            )
            if file not in tables:
                tables = {file: _table(file, [*keys, "timestamp", "episode_index", "task_index"])}
            found.append(self._episode(file, tables[file], place, features))
        return found

    def pictures(
        self, index: int, key: str, steps: Sequence[int], *, fit: Callable[[Picture], Picture] = frames.as_it_is
    ) -> NDArray[np.uint8]:
        """(len(steps), height, width, 3): what a camera saw at ascending steps of an episode, as `fit` makes them."""
        feature, place = self._feature(key), self.places[index]
        if feature.dtype == "image":
            return self._stills(place, key, steps, fit)
        if feature.dtype != "video":
            raise InputError(f"{self.path}: {key} holds {feature.dtype}, no pictures; it has {self.picture_keys}")
        where = {name: place[f"videos/{key}/{name}"] for name in ("chunk_index", "file_index", "from_timestamp")}
        file = self.path / self.info.video_path.format(
            video_key=key, chunk_index=where["chunk_index"], file_index=where["file_index"]
        )
        timestamps = self._read([place], [])[0].timestamps[list(steps)]
        moments = [float(where["from_timestamp"] + moment) for moment in timestamps]
        return frames.read(file, moments, tolerance=0.5 / self.info.fps, fit=fit)

    def _feature(self, key: str) -> Feature:
        if key not in self.info.features:
            raise InputError(f"{self.path}: has no {key}; it has {', '.join(self.info.features)}")
        return self.info.features[key]

    def _episode(
        self, file: Path, table: pa.Table, place: Mapping[str, Any], features: Mapping[str, Feature]
    ) -> Episode:
        number, length = int(place["episode_index"]), int(place["length"])
        whose = table["episode_index"].to_numpy()
        rows = np.flatnonzero(whose == number)
        if len(rows) != length or length < 1 or np.ptp(rows) != length - 1:
            raise InputError(
                f"{file}: {len(rows)} rows of episode {number}, where meta/episodes says {length}; "
                "it was cut off, or belongs to another recording: copy it again"
            )
        part = table.slice(int(rows[0]), length)
        columns = {key: _numbers(file, part, key, feature, number) for key, feature in features.items()}
        timestamps = part["timestamp"].to_numpy().astype(np.float64)
        if not (np.diff(timestamps) > 0).all():
            raise InputError(f"{file}: timestamps of episode {number} don't rise; record that episode again")
        task = self.tasks.get(int(part["task_index"][0].as_py()), "")
        return Episode(number, task, timestamps, columns)

    def _stills(
        self, place: Mapping[str, Any], key: str, steps: Sequence[int], fit: Callable[[Picture], Picture]
    ) -> NDArray[np.uint8]:
        """Pictures that lie in the parquet file itself, as PNG or JPEG."""
        file = self.path / self.info.data_path.format(
            chunk_index=place["data/chunk_index"], file_index=place["data/file_index"]
        )
        table = _table(file, [key, "episode_index"])
        rows = np.flatnonzero(table["episode_index"].to_numpy() == place["episode_index"])
        try:
            encoded = [table[key][int(rows[step])].as_py()["bytes"] for step in steps]
            return np.stack([fit(np.asarray(Image.open(io.BytesIO(one)).convert("RGB"))) for one in encoded])
        except (UnidentifiedImageError, OSError, IndexError, TypeError) as error:
            raise InputError(f"{file}: {key} holds pictures that can't be read ({first_line(error)})") from error


def open_recording(path: Path) -> Recording:
    """A recording, its meta/ read; InputError with place and remedy where that is missing, damaged or at odds."""
    info = read_info(path)
    if not info.num_episodes:
        raise InputError(f"{path}: holds no episode yet; record one")
    tasks = _tasks(path / TASKS)
    folder = path / "meta" / "episodes"
    files = sorted(folder.glob("chunk-*/file-*.parquet"))
    if not files:
        raise InputError(f"{folder}: no parquet files; copy the recording again, meta/episodes with it")
    places: list[dict[str, Any]] = []
    for file in files:
        table = _table(file, None)
        wanted = [name for name in table.column_names if not name.startswith("stats/")]
        missing = [name for name in ("episode_index", *_BORDERS) if name not in wanted]
        if missing:
            raise InputError(f"{file}: lacks {', '.join(missing)}; it is of no {info.robot_type} recording in v3.0")
        places += table.select(wanted).to_pylist()
    places = places[: info.num_episodes]  # what a writer that was killed left beyond them does not count
    if [place["episode_index"] for place in places] != list(range(info.num_episodes)):
        raise InputError(
            f"{folder}: {len(places)} episodes, where info.json says {info.num_episodes}; copy the recording again"
        )
    return Recording(path, info, tasks, places)


def _tasks(file: Path) -> dict[int, str]:
    table = _table(file, None)
    names = [name for name in table.column_names if name != "task_index"]
    if "task_index" not in table.column_names or not names:
        raise InputError(f"{file}: lacks task_index, or the tasks' words; copy the recording again")
    return dict(zip(table["task_index"].to_pylist(), map(str, table[names[0]].to_pylist()), strict=True))


def _table(file: Path, columns: Sequence[str] | None) -> pa.Table:
    try:
        with pq.ParquetFile(file) as opened:
            return opened.read(None if columns is None else list(dict.fromkeys(columns)))
    except FileNotFoundError as error:
        raise InputError(f"{file}: missing; copy the recording again") from error
    except (pa.ArrowException, OSError, ValueError) as error:
        raise InputError(f"{file}: cut off, or no parquet file ({first_line(error)}); copy it again") from error


def _numbers(file: Path, part: pa.Table, key: str, feature: Feature, number: int) -> NDArray:
    """(t, size) of one feature in one episode, finite and of the size that info.json says."""
    if key not in part.column_names:
        raise InputError(f"{file}: lacks the column {key} that info.json names; copy it again")
    column = part[key].combine_chunks()
    rows = len(column)
    while pa.types.is_list(column.type) or pa.types.is_fixed_size_list(column.type):
        column = column.flatten()
    size = int(np.prod(feature.shape))
    values = column.to_numpy(zero_copy_only=False)
    if len(values) != rows * size or values.dtype.kind not in "biuf":
        raise InputError(f"{file}: {key} of episode {number} is not {size} numbers a step, as info.json says")
    values = values.reshape(rows, size)
    if not np.isfinite(values).all():
        step = int(np.flatnonzero(~np.isfinite(values).all(1))[0])
        raise InputError(
            f"{file}: {key} of episode {number} is not finite at step {step}; remove or record that episode again"
        )
    return values
