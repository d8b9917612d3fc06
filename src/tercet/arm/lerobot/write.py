"""Write LeRobotDataset v3 folders. The order of writes leaves a readable recording if the process is killed."""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from tercet.arm.lerobot import frames, statistics
from tercet.arm.lerobot.layout import (
    COUNTERS,
    DATA,
    EPISODES,
    FILES_PER_CHUNK,
    INFO,
    STATS,
    TASKS,
    VERSION,
    VIDEOS,
    Feature,
    Info,
    read_info,
    write_info,
)
from tercet.arm.lerobot.read import Recording, open_recording
from tercet.arm.lerobot.tables import read_table
from tercet.errors import InputError
from tercet.runs import atomic

T = TypeVar("T")


@dataclass(frozen=True)
class NewEpisode:
    """An episode to write: `columns` (t, size) by feature, and the `pictures` of each camera, one per step."""

    task: str
    columns: Mapping[str, NDArray]
    pictures: Mapping[str, Sequence[NDArray[np.uint8]]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))


def append(folder: Path, info: Info, episodes: Sequence[NewEpisode]) -> None:
    """Add episodes to a recording. Start a new recording if the folder has none.

    Each call writes new files, and info.json last: until then, readers ignore the new episodes. Raises InputError if an
    episode does not fit `info`, and as `open_for_append`.
    """
    before = open_for_append(folder, info)
    for episode in episodes:
        _check(episode, info)
    info = replace(info, num_episodes=len(before) if before else 0, num_frames=before.info.num_frames if before else 0)
    tasks = {name: number for number, name in before.tasks.items()} if before else {}
    for episode in episodes:
        tasks.setdefault(episode.task, len(tasks))
    last = before.entries[-1] if before else None
    number = last["meta/episodes/chunk_index"] * FILES_PER_CHUNK + last["meta/episodes/file_index"] + 1 if last else 0
    location = {"chunk_index": number // FILES_PER_CHUNK, "file_index": number % FILES_PER_CHUNK}
    videos, spans = _write_videos(folder, info, episodes, location)
    tables = [_rows(episode, info, first, index, tasks) for episode, first, index in _numbered(episodes, info)]
    _write_atomically(folder / DATA.format(**location), lambda file: _write_groups(file, tables))
    stats = [_stats(table, episode, info) for table, episode in zip(tables, episodes, strict=True)]
    all_stats = [*(_read_stats(folder, len(before)) if before else []), *stats]
    entries = [
        _entry(episode, first, index, location, spans[k], stats[k])
        for k, (episode, first, index) in enumerate(_numbered(episodes, info))
    ]
    _write_atomically(folder / TASKS, lambda file: pq.write_table(_tasks_table(tasks), file))
    _write_atomically(
        folder / EPISODES.format(**location), lambda file: pq.write_table(pa.Table.from_pylist(entries), file)
    )
    atomic.write_text(folder / STATS, _stats_text(all_stats))
    grown = replace(
        info,
        num_episodes=info.num_episodes + len(episodes),
        num_frames=info.num_frames + sum(map(len, episodes)),
    )
    atomic.write_text(folder / INFO, write_info(grown, num_tasks=len(tasks), videos=videos))


def open_for_append(folder: Path, info: Info) -> Recording | None:
    """Open the recording in a folder, if there is one. Raises InputError if its robot or its features differ."""
    if not (folder / INFO).exists():
        if folder.is_dir() and any(folder.iterdir()) and not (folder / "meta").is_dir():
            raise InputError(f"{folder}: not empty, and not a recording; give an empty or a new folder")
        return None
    existing = read_info(folder)
    if existing.version != VERSION:
        raise InputError(f"{folder}: recorded in {existing.version}; only {VERSION} can be extended: give a new folder")
    if existing.robot_type != info.robot_type:
        raise InputError(f"{folder}: a recording of {existing.robot_type}, not {info.robot_type}; give a new folder")
    theirs, ours = existing.data_features(), info.data_features()
    if theirs != ours or existing.fps != info.fps:
        different = [key for key in {**theirs, **ours} if theirs.get(key) != ours.get(key)] or ["fps"]
        raise InputError(f"{folder}: a recording with another {', '.join(different)}; give a new folder")
    return open_recording(folder) if existing.num_episodes else None


def _check(episode: NewEpisode, info: Info) -> None:
    """Raise InputError unless every feature is present and finite, has its size and one row per step."""
    length = len(episode)
    if not length:
        raise InputError("an episode has no steps; leave it out")
    for key, feature in info.data_features().items():
        values = episode.pictures.get(key) if feature.is_picture else episode.columns.get(key)
        if values is None or len(values) != length:
            raise InputError(f"{key}: {0 if values is None else len(values)} values for {length} steps")
        if isinstance(values, np.ndarray) and not feature.is_picture:
            if values.shape != (length, int(np.prod(feature.shape))):
                raise InputError(f"{key}: has shape {values.shape}, but each step must have {feature.shape}")
            if not np.isfinite(values).all():
                raise InputError(f"{key}: holds numbers that are not finite")


def _numbered(episodes: Sequence[NewEpisode], info: Info) -> list[tuple[NewEpisode, int, int]]:
    """Return each episode with the index of its first row and its number."""
    firsts = info.num_frames + np.cumsum([0, *map(len, episodes)])
    return [(episode, int(firsts[k]), info.num_episodes + k) for k, episode in enumerate(episodes)]


def _rows(episode: NewEpisode, info: Info, first: int, index: int, tasks: Mapping[str, int]) -> pa.Table:
    length = len(episode)
    columns: dict[str, pa.Array] = {}
    for key, feature in info.data_features().items():
        if not feature.is_picture:
            columns[key] = _column(episode.columns[key], feature)
    steps = np.arange(length)
    counters = {
        "timestamp": steps / info.fps,
        "frame_index": steps,
        "episode_index": np.full(length, index),
        "index": first + steps,
        "task_index": np.full(length, tasks[episode.task]),
    }
    columns |= {key: _column(values, COUNTERS[key]) for key, values in counters.items()}
    return pa.table(columns)


def _column(values: NDArray, feature: Feature) -> pa.Array:
    flat = pa.array(np.ascontiguousarray(values).reshape(-1).astype(feature.dtype))
    size = int(np.prod(feature.shape))
    return flat if feature.shape == (1,) else pa.FixedSizeListArray.from_arrays(flat, size)


def _write_groups(file: Path, tables: Sequence[pa.Table]) -> None:
    with pq.ParquetWriter(file, tables[0].schema) as writer:
        for table in tables:  # one row group per episode, so that an episode can be read alone
            writer.write_table(table)


def _write_videos(
    folder: Path, info: Info, episodes: Sequence[NewEpisode], location: Mapping[str, int]
) -> tuple[dict[str, dict[str, Any]], list[dict[str, Any]]]:
    """Write the videos. Return how each is encoded, and per episode the columns of meta/episodes that locate it."""
    videos: dict[str, dict[str, Any]] = {}
    spans: list[dict[str, Any]] = [{} for _ in episodes]
    for key in (key for key, feature in info.features.items() if feature.dtype == "video"):
        file = folder / VIDEOS.format(video_key=key, **location)
        images = [picture for episode in episodes for picture in episode.pictures[key]]
        videos[key] = _write_atomically(file, partial(frames.write, pictures=images, fps=info.fps))
        start = 0.0
        for episode, span in zip(episodes, spans, strict=True):
            end = start + len(episode) / info.fps
            span |= {f"videos/{key}/{name}": value for name, value in location.items()}
            span |= {f"videos/{key}/from_timestamp": start, f"videos/{key}/to_timestamp": end}
            start = end
    return videos, spans


def _stats(table: pa.Table, episode: NewEpisode, info: Info) -> dict[str, statistics.Stats]:
    stats: dict[str, statistics.Stats] = {}
    for key, feature in {**info.data_features(), **COUNTERS}.items():
        if feature.is_picture:
            stats[key] = statistics.of_pictures(episode.pictures[key])
        else:
            flat = table[key].combine_chunks()
            values = flat.flatten() if pa.types.is_fixed_size_list(flat.type) else flat
            stats[key] = statistics.of_numbers(values.to_numpy(zero_copy_only=False).reshape(len(episode), -1))
    return stats


def _entry(
    episode: NewEpisode,
    first: int,
    index: int,
    location: Mapping[str, int],
    span: Mapping[str, Any],
    stats: Mapping[str, statistics.Stats],
) -> dict[str, Any]:
    """Return the row of meta/episodes of an episode."""
    return {
        "episode_index": index,
        "tasks": [episode.task],
        "length": len(episode),
        **{f"data/{name}": value for name, value in location.items()},
        "dataset_from_index": first,
        "dataset_to_index": first + len(episode),
        **span,
        **{f"stats/{key}/{name}": value.tolist() for key, of_key in stats.items() for name, value in of_key.items()},
        **{f"meta/episodes/{name}": value for name, value in location.items()},
    }


def _tasks_table(tasks: Mapping[str, int]) -> pa.Table:
    """Return numbers and names of tasks. LeRobot looks names up in the pandas index, which the metadata declare."""
    table = pa.table({"task_index": pa.array(tasks.values(), pa.int64()), "task": pa.array(tasks, pa.string())})
    columns = [
        {"name": name, "field_name": name, "pandas_type": kind, "numpy_type": numpy_type, "metadata": None}
        for name, kind, numpy_type in (("task_index", "int64", "int64"), ("task", "unicode", "object"))
    ]
    pandas = {"index_columns": ["task"], "column_indexes": [], "columns": columns}
    return table.replace_schema_metadata({"pandas": json.dumps(pandas)})


def _stats_text(parts: Sequence[Mapping[str, statistics.Stats]]) -> str:
    """Return the text of meta/stats.json, merged from the statistics of every episode."""
    merged = {key: statistics.merge([part[key] for part in parts]) for key in parts[0]}
    tree = {key: {name: value.tolist() for name, value in stats.items()} for key, stats in merged.items()}
    return json.dumps(tree, indent=4) + "\n"


def _read_stats(folder: Path, num_episodes: int) -> list[dict[str, statistics.Stats]]:
    """Read the statistics of each earlier episode from meta/episodes."""
    rows: list[dict[str, Any]] = []
    for file in sorted((folder / "meta" / "episodes").glob("chunk-*/file-*.parquet")):
        rows += read_table(file, None).to_pylist()
    stats_by_episode: list[dict[str, statistics.Stats]] = []
    for row in rows[:num_episodes]:
        stats: dict[str, dict[str, NDArray]] = {}
        for name, value in row.items():
            if name.startswith("stats/"):
                _, key, kind = name.split("/")
                stats.setdefault(key, {})[kind] = np.array(value)
        stats_by_episode.append({**stats})
    return stats_by_episode


def _write_atomically(file: Path, write: Callable[[Path], T]) -> T:
    """Call `write` with a temporary file, then rename that to `file`. Return what `write` returned."""
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.name}.{os.getpid()}.partial")
    try:
        with atomic.full_disk_named(file):
            result = write(temporary)
            temporary.replace(file)
            return result
    finally:
        temporary.unlink(missing_ok=True)
