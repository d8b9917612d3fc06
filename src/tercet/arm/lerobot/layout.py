"""Where everything lies in a LeRobotDataset v3 folder, and what its meta/info.json says.

Written from the format's documentation (huggingface.co/docs/lerobot/lerobot-dataset-v3): many episodes share a file,
and meta/episodes says which rows of which file, and which seconds of which video, are whose.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tercet.errors import InputError, first_line

VERSION = "v3.0"
FILES_PER_CHUNK = 1000
INFO, STATS, TASKS = Path("meta/info.json"), Path("meta/stats.json"), Path("meta/tasks.parquet")
EPISODES = "meta/episodes/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
DATA = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEOS = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"

STATE, ENVIRONMENT, ACTION, IMAGES = (
    "observation.state",
    "observation.environment_state",
    "action",
    "observation.images",
)


@dataclass(frozen=True)
class Feature:
    """One column: `dtype` is a number's type, `video` or `image`; `names` are those of its entries, if it has any."""

    dtype: str
    shape: tuple[int, ...]
    names: tuple[str, ...] | None = None

    @property
    def is_picture(self) -> bool:
        """Whether its values are pictures, (height, width, channels)."""
        return self.dtype in ("video", "image")


# columns that every recording has, filled in by whoever writes it
COUNTERS: Mapping[str, Feature] = {
    "timestamp": Feature("float32", (1,)),
    "frame_index": Feature("int64", (1,)),
    "episode_index": Feature("int64", (1,)),
    "index": Feature("int64", (1,)),
    "task_index": Feature("int64", (1,)),
}


@dataclass(frozen=True)
class Info:
    """What meta/info.json says. `fps` are frames a second; paths are patterns with chunk_index and file_index."""

    fps: float
    features: Mapping[str, Feature]
    robot_type: str | None = None
    num_episodes: int = 0
    num_frames: int = 0
    data_path: str = DATA
    video_path: str = VIDEOS

    def described(self) -> dict[str, Feature]:
        """The features without the counters."""
        return {key: feature for key, feature in self.features.items() if key not in COUNTERS}


def read_info(folder: Path) -> Info:
    """meta/info.json; InputError where it is missing, damaged, or of another version of the format."""
    file = folder / INFO
    try:
        tree = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{folder}: no recording, for it lacks {INFO}; give the folder that holds meta/") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: damaged ({first_line(error)}); copy the recording again") from error
    version = tree.get("codebase_version") if isinstance(tree, dict) else None
    if version != VERSION:
        raise InputError(
            f"{file}: codebase_version {version!r}, where {VERSION} is read; "
            "convert it with lerobot's convert_dataset_v21_to_v30"
        )
    try:
        return _parsed(tree)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{file}: lacks or garbles {first_line(error)}; copy the recording again") from error


def write_info(info: Info, *, num_tasks: int, videos: Mapping[str, Mapping[str, Any]]) -> str:
    """The text of meta/info.json; `videos` says of each video feature how it is encoded."""
    features = {key: _feature_tree(feature) for key, feature in {**info.described(), **COUNTERS}.items()}
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


def _parsed(tree: Mapping[str, Any]) -> Info:
    features = {
        key: Feature(str(entry["dtype"]), tuple(int(size) for size in entry["shape"]), _names(entry.get("names")))
        for key, entry in tree["features"].items()
    }
    fps = float(tree["fps"])
    if not 0 < fps < float("inf"):
        raise ValueError(f"fps {fps}")
    return Info(
        fps=fps,
        features=features,
        robot_type=tree.get("robot_type"),
        num_episodes=int(tree["total_episodes"]),
        num_frames=int(tree["total_frames"]),
        data_path=str(tree["data_path"]),
        video_path=str(tree.get("video_path") or VIDEOS),
    )


def _names(given: Any) -> tuple[str, ...] | None:  # Any: a list, or lists under headings such as "motors"
    if isinstance(given, dict):
        given = [name for value in given.values() for name in (value if isinstance(value, list) else [value])]
    return tuple(str(name) for name in given) if given else None


def _feature_tree(feature: Feature) -> dict[str, Any]:  # Any: JSON
    names = list(feature.names) if feature.names else None
    return {"dtype": feature.dtype, "shape": list(feature.shape), "names": names}
