"""meta/info.json is written and read, and damage gives a one-line error."""

import json
from pathlib import Path
from typing import Any

import pytest

from tercet.arm.lerobot.layout import ACTION, INFO, STATE, Feature, Info, read_info, write_info
from tercet.errors import InputError

FEATURES = {
    STATE: Feature("float32", (3,), ("x", "y", "z")),
    ACTION: Feature("float32", (2,), units="scaled"),
    "observation.images.front": Feature("video", (32, 64, 3)),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "meta").mkdir()
    info = Info(20.0, FEATURES, "tercet", num_episodes=2, num_frames=9)
    (tmp_path / INFO).write_text(write_info(info, num_tasks=1, videos={}))
    return tmp_path


def change(folder: Path, **values: Any) -> None:
    """Replace entries of meta/info.json; None removes an entry."""
    tree = json.loads((folder / INFO).read_text()) | values
    (folder / INFO).write_text(json.dumps({key: value for key, value in tree.items() if value is not None}))


def test_info_is_read_as_it_was_written(folder: Path) -> None:
    info = read_info(folder)
    assert (info.fps, info.robot_type, info.num_episodes, info.num_frames) == (20.0, "tercet", 2, 9)
    assert info.data_features() == FEATURES
    assert info.features[ACTION].units == "scaled"
    assert [key for key, feature in info.features.items() if feature.is_picture] == ["observation.images.front"]


def test_a_folder_without_info_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"not a recording, because it has no meta/info\.json"):
        read_info(tmp_path)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"fps": 0}, "missing or invalid entry fps 0"),
        ({"features": None}, "missing or invalid entry 'features'"),
        ({"total_episodes": -1}, "missing or invalid entry total_episodes -1"),
        ({"data_path": "../{chunk_index}"}, "missing or invalid entry data_path"),
        ({"data_path": "data/{x}"}, "missing or invalid entry data_path"),
        (
            {"codebase_version": "v3.1"},
            r"'v3\.1' is not supported \(v2\.0, v2\.1 and v3\.0 are\); update with pip install -U tercet",
        ),
        ({"codebase_version": "v1.6"}, "convert it with LeRobot"),
    ],
)
def test_invalid_entries_are_refused(folder: Path, values: dict[str, Any], message: str) -> None:
    change(folder, **values)
    with pytest.raises(InputError, match=message):
        read_info(folder)
