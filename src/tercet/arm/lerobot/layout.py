"""The files of a LeRobotDataset folder, and its meta/info.json.

This follows the format's documentation (huggingface.co/docs/lerobot/lerobot-dataset-v3). In v3 many episodes share a
file, and meta/episodes holds the file, the rows and the seconds of video of each episode. In v2 each episode has its
own files, and meta/episodes.jsonl holds its length.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tercet import strict_json
from tercet.errors import InputError, first_line

VERSION = "v3.0"  # the version that is written
OLDER = ("v2.0", "v2.1")  # older versions that can be read
FILES_PER_CHUNK = 1000
INFO, STATS, TASKS = Path("meta/info.json"), Path("meta/stats.json"), Path("meta/tasks.parquet")
EPISODES = "meta/episodes/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
DATA = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
OLD_TASKS, OLD_EPISODES = Path("meta/tasks.jsonl"), Path("meta/episodes.jsonl")
VIDEOS = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"

_MAX_COUNT = 10**9  # larger counts are refused as damage
_PLACEHOLDER = re.compile(r"\{(chunk_index|file_index|episode_chunk|episode_index|video_key)(:0?\d?d?)?\}")

STATE, ENVIRONMENT, ACTION, IMAGES = (
    "observation.state",
    "observation.environment_state",
    "action",
    "observation.images",
)


@dataclass(frozen=True)
class Feature:
    """One column. `dtype` is a type of numbers, `video` or `image`; `names` are the names of its entries, if any.

    `units` are the units of actions (`arm/sim/units.py`), if the recording states them.
    """

    dtype: str
    shape: tuple[int, ...]
    names: tuple[str, ...] | None = None
    units: str = field(default="", compare=False)  # older recordings do not state it

    @property
    def is_picture(self) -> bool:
        """Return True if its values are images, (height, width, channels)."""
        return self.dtype in ("video", "image")


# columns that every recording has; the writer fills them in
COUNTERS: Mapping[str, Feature] = {
    "timestamp": Feature("float32", (1,)),
    "frame_index": Feature("int64", (1,)),
    "episode_index": Feature("int64", (1,)),
    "index": Feature("int64", (1,)),
    "task_index": Feature("int64", (1,)),
}


@dataclass(frozen=True)
class Info:
    """Contents of meta/info.json. Paths are patterns, in v3 of chunk_index and file_index."""

    fps: float  # frames per second
    features: Mapping[str, Feature]
    robot_type: str | None = None
    num_episodes: int = 0
    num_frames: int = 0
    data_path: str = DATA
    video_path: str = VIDEOS
    version: str = VERSION
    chunks_size: int = FILES_PER_CHUNK

    def data_features(self) -> dict[str, Feature]:
        """Return the features without the counters."""
        return {key: feature for key, feature in self.features.items() if key not in COUNTERS}


def read_info(folder: Path) -> Info:
    """Read meta/info.json. Raises InputError if it is missing, damaged, or of an unknown version."""
    file = folder / INFO
    if not file.is_file():
        raise InputError(f"{folder}: not a recording, because it has no {INFO}; give the folder that contains meta/")
    try:
        tree = strict_json.parse(file.read_text(encoding="utf-8"), str(INFO))
    except (OSError, ValueError) as error:  # InputError is a ValueError
        raise InputError(f"{file}: damaged ({first_line(error)}); copy the recording again") from error
    if not isinstance(tree, dict):
        raise InputError(f"{file}: holds {type(tree).__name__}, not an object; copy the recording again")
    version = tree.get("codebase_version")
    if version not in (VERSION, *OLDER):
        newer = isinstance(version, str) and version > VERSION
        remedy = "update with pip install -U tercet" if newer else "record it again, or convert it with LeRobot"
        raise InputError(
            f"{file}: codebase_version {version!r} is not supported ({', '.join(OLDER)} and {VERSION} are); {remedy}"
        )
    try:
        return _info_from(tree)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{file}: missing or invalid entry {first_line(error)}; copy the recording again") from error


def write_info(info: Info, *, num_tasks: int, videos: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the text of meta/info.json. `videos` holds the encoding of each video feature."""
    features = {key: _feature_tree(feature) for key, feature in {**info.data_features(), **COUNTERS}.items()}
    for key, encoding in videos.items():
        features[key]["info"] = dict(encoding)
    tree = {
        "codebase_version": VERSION,
        "robot_type": info.robot_type,
        "total_episodes": info.num_episodes,
        "total_frames": info.num_frames,
        "total_tasks": num_tasks,
        "chunks_size": FILES_PER_CHUNK,
        "data_files_size_in_mb": 100,
        "video_files_size_in_mb": 200,
        "fps": int(info.fps) if info.fps == int(info.fps) else info.fps,
        "splits": {"train": f"0:{info.num_episodes}"},
        "data_path": DATA,
        "video_path": VIDEOS if any(feature.dtype == "video" for feature in info.features.values()) else None,
        "features": features,
    }
    return json.dumps(tree, indent=4) + "\n"


def _info_from(tree: Mapping[str, Any]) -> Info:
    features = {
        key: Feature(
            _text(entry["dtype"], "dtype"),
            tuple(_count(size, f"shape of {key}") for size in entry["shape"]),
            _names(entry.get("names")),
            _text(entry.get("units") or "", "units"),
        )
        for key, entry in tree["features"].items()
    }
    fps = tree["fps"]
    if isinstance(fps, bool) or not isinstance(fps, int | float) or not 0 < fps <= _MAX_COUNT:
        raise ValueError(f"fps {fps!r:.40}")
    return Info(
        fps=float(fps),
        features=features,
        robot_type=_text(tree.get("robot_type") or "", "robot_type") or None,
        num_episodes=_count(tree["total_episodes"], "total_episodes", least=0),
        num_frames=_count(tree["total_frames"], "total_frames", least=0),
        data_path=_pattern(tree["data_path"], "data_path"),
        video_path=_pattern(tree.get("video_path") or VIDEOS, "video_path"),
        version=tree["codebase_version"],
        chunks_size=_count(tree.get("chunks_size") or FILES_PER_CHUNK, "chunks_size"),
    )


def _count(value: object, name: str, *, least: int = 1) -> int:
    if type(value) is not int or not least <= value <= _MAX_COUNT:
        raise ValueError(f"{name} {value!r:.40}")
    return value


def _text(value: object, name: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{name} {value!r:.40}")
    return value


def _pattern(value: object, name: str) -> str:
    """Check that a path pattern stays within the recording and has only the placeholders of the format."""
    text = _text(value, name)
    plain = _PLACEHOLDER.sub("", text)
    if set("{}\0") & set(plain) or Path(text).is_absolute() or ".." in Path(text).parts:
        raise ValueError(f"{name} {text!r:.80}")
    return text


def _names(names: Any) -> tuple[str, ...] | None:  # Any: a list, or lists under headings such as "motors"
    if isinstance(names, dict):
        names = [name for value in names.values() for name in (value if isinstance(value, list) else [value])]
    return tuple(str(name) for name in names) if names else None


def _feature_tree(feature: Feature) -> dict[str, Any]:  # Any: JSON
    names = list(feature.names) if feature.names else None
    units = {"units": feature.units} if feature.units else {}
    return {"dtype": feature.dtype, "shape": list(feature.shape), "names": names, **units}
