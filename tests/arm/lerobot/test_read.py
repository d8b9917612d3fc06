"""Recordings that LeRobot 0.6.1 wrote are read exactly; what is wrong with one is one message.

`written_by_lerobot` holds two, as video and as single pictures: three episodes of 5, 4 and 6 steps at 30 a second;
at the n-th step of them all, state is 10 n + (0..5), action that plus 0.5, and the picture shows n in black and white.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tercet.arm.lerobot import frames
from tercet.arm.lerobot.layout import ACTION, IMAGES, STATE
from tercet.arm.lerobot.read import Recording, open_recording
from tercet.arm.lerobot.write import there
from tercet.errors import InputError

THEIRS = Path(__file__).parent / "written_by_lerobot"
FRONT = f"{IMAGES}.front"
DATA, VIDEO = "data/chunk-000/file-000.parquet", f"videos/{FRONT}/chunk-000/file-000.mp4"
EPISODES = "meta/episodes/chunk-000/file-000.parquet"


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(THEIRS / "video", tmp_path / "copy"))


def shown(picture: np.ndarray) -> int:
    """The number that a picture shows in binary."""
    return sum(int(picture[16, 16 * bit + 8].mean() > 128) << bit for bit in range(4))


@pytest.mark.parametrize("kind", ["video", "image"])
def test_numbers_borders_tasks_and_times_are_lerobots(kind: str) -> None:
    recording = open_recording(THEIRS / kind)
    assert (recording.info.robot_type, recording.info.fps) == ("so101_follower", 30)
    assert recording.info.features[STATE].names is not None
    assert recording.info.features[STATE].names[5] == "gripper.pos"
    assert recording.picture_keys == [FRONT]
    episodes = recording.episodes([STATE, ACTION, "next.reward"])
    assert [len(episode) for episode in episodes] == [5, 4, 6]
    assert [episode.task for episode in episodes] == ["pick the cube", "push it", "pick the cube"]
    np.testing.assert_allclose(episodes[1].timestamps, [0, 1 / 30, 2 / 30, 3 / 30], rtol=1e-6)
    steps = np.concatenate([episode.columns[STATE] for episode in episodes])
    np.testing.assert_array_equal(steps, np.arange(15)[:, None] * 10.0 + np.arange(6))
    np.testing.assert_array_equal(episodes[2].columns[ACTION][0], np.arange(6) + 90.5)
    assert episodes[2].columns["next.reward"].shape == (6, 1)


@pytest.mark.parametrize("kind", ["video", "image"])
def test_each_step_shows_the_picture_that_was_taken_there(kind: str) -> None:
    recording, first = open_recording(THEIRS / kind), 0
    for index, length in enumerate((5, 4, 6)):
        seen = recording.pictures(index, FRONT, range(length))
        assert seen.shape == (length, 32, 64, 3)
        assert [shown(picture) for picture in seen] == list(range(first, first + length))
        first += length
    assert [shown(picture) for picture in recording.pictures(2, FRONT, [1, 4])] == [10, 13]


def test_only_the_first_episodes_are_read_where_that_is_asked_for() -> None:
    assert [len(episode) for episode in open_recording(THEIRS / "video").episodes([ACTION], most=2)] == [5, 4]


def complaint(folder: Path) -> str:
    """What reading all of it says."""
    with pytest.raises(InputError) as caught:
        everything(open_recording(folder))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def everything(recording: Recording) -> None:
    recording.episodes([STATE, ACTION])
    for index, length in enumerate((5, 4, 6)):
        recording.pictures(index, FRONT, range(length))


def test_a_folder_that_is_no_recording(tmp_path: Path) -> None:
    assert "no recording" in complaint(tmp_path)


@pytest.mark.parametrize("file", [DATA, VIDEO, EPISODES, "meta/tasks.parquet"])
def test_a_missing_file_is_named(copy: Path, file: str) -> None:
    (copy / file).unlink()
    found = complaint(copy)
    assert str(copy / ("meta/episodes" if file == EPISODES else file)) in found
    assert "copy the recording again" in found


@pytest.mark.parametrize("file", [DATA, VIDEO, EPISODES, "meta/tasks.parquet", "meta/info.json"])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.95])
def test_a_file_that_was_cut_off_is_named(copy: Path, file: str, share: float) -> None:
    whole = (copy / file).read_bytes()
    (copy / file).write_bytes(whole[: int(share * len(whole))])
    found = complaint(copy)
    assert str(copy / file) in found and "again" in found


def test_a_newer_version_of_the_format_gets_its_remedy(copy: Path) -> None:
    info = json.loads((copy / "meta/info.json").read_text())
    (copy / "meta/info.json").write_text(json.dumps({**info, "codebase_version": "v3.1"}))
    assert "'v3.1'; v2.0, v2.1 and v3.0 are read here: pip install -U tercet" in complaint(copy)
    (copy / "meta/info.json").write_text(json.dumps({**info, "codebase_version": "v1.6"}))
    assert "convert it with LeRobot" in complaint(copy)


@pytest.mark.parametrize("version", ["v2.0", "v2.1"])
def test_recordings_of_version_2_are_read(copy: Path, version: str) -> None:
    """The same numbers and videos, an episode a file, as the format was before."""
    whole, recording = pq.read_table(copy / DATA, partitioning=None), open_recording(copy)
    film = copy / f"videos/chunk-000/{FRONT}/episode_000000.mp4"
    film.parent.mkdir(parents=True)
    frames.write(film, recording.pictures(0, FRONT, range(5)), fps=30.0)
    (copy / DATA).unlink()
    first, lines = 0, []
    for number, length in enumerate((5, 4, 6)):
        pq.write_table(whole.slice(first, length), copy / f"data/chunk-000/episode_{number:06d}.parquet")
        task = "push it" if number == 1 else "pick the cube"
        lines.append(json.dumps({"episode_index": number, "tasks": [task], "length": length}))
        first += length
    (copy / "meta/episodes.jsonl").write_text("\n".join(lines) + "\n")
    words = pq.read_table(copy / "meta/tasks.parquet").to_pylist()
    key = next(name for name in words[0] if name != "task_index")
    tasks = [json.dumps({"task_index": row["task_index"], "task": row[key]}) for row in words]
    (copy / "meta/tasks.jsonl").write_text("\n".join(tasks) + "\n")
    paths = {
        "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "video_path": "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
    }
    info = json.loads((copy / "meta/info.json").read_text())
    (copy / "meta/info.json").write_text(json.dumps({**info, **paths, "codebase_version": version}))
    found = open_recording(copy)
    episodes = found.episodes([STATE])
    assert [(len(one), one.task) for one in episodes][1] == (4, "push it")
    np.testing.assert_array_equal(
        np.concatenate([one.columns[STATE] for one in episodes]), np.arange(15)[:, None] * 10.0 + np.arange(6)
    )
    assert [shown(picture) for picture in found.pictures(0, FRONT, range(5))] == [0, 1, 2, 3, 4]
    with pytest.raises(InputError, match=f"a recording in {version}; only v3.0 is written"):
        there(copy, found.info)
    (copy / "meta/episodes.jsonl").write_text('{"episode_index": 0')
    assert "episodes.jsonl: cut off, or no JSON lines" in complaint(copy)


def test_info_without_what_is_needed(copy: Path) -> None:
    info = json.loads((copy / "meta/info.json").read_text())
    (copy / "meta/info.json").write_text(json.dumps({**info, "fps": 0}))
    assert "fps 0" in complaint(copy)
    del info["features"]
    (copy / "meta/info.json").write_text(json.dumps(info))
    assert "'features'" in complaint(copy)


def change(file: Path, name: str, values: pa.Array) -> None:
    table = pq.read_table(file, partitioning=None)
    pq.write_table(table.set_column(table.column_names.index(name), name, values), file)


def test_numbers_that_are_not_finite_are_named_by_episode_and_step(copy: Path) -> None:
    states = np.arange(90, dtype=np.float32)
    states[6 * 7 + 2] = np.nan  # the third step of the second episode
    change(copy / DATA, STATE, pa.FixedSizeListArray.from_arrays(states, 6))
    assert "observation.state of episode 1 is not finite at step 2" in complaint(copy)


def test_another_size_than_announced(copy: Path) -> None:
    change(copy / DATA, ACTION, pa.FixedSizeListArray.from_arrays(np.zeros(75, np.float32), 5))
    assert "action of episode 0 is not 6 numbers a step" in complaint(copy)


def test_rows_of_another_recording(copy: Path) -> None:
    change(copy / DATA, "episode_index", pa.array(np.arange(15) // 5))
    assert "5 rows of episode 1, where meta/episodes says 4" in complaint(copy)


def test_times_that_run_backwards(copy: Path) -> None:
    change(copy / DATA, "timestamp", pa.array(np.zeros(15, np.float32)))
    assert "timestamps of episode 0 don't rise" in complaint(copy)


def test_a_video_of_another_recording(copy: Path) -> None:
    table = pq.read_table(copy / EPISODES, partitioning=None)
    late = pa.array(np.array([0.0, 60.0, 90.0]))
    change(copy / EPISODES, f"videos/{FRONT}/from_timestamp", late)
    assert table.num_rows == 3
    assert "no frame at 60.000 s" in complaint(copy)


def test_an_unknown_feature_is_answered_with_those_there_are() -> None:
    with pytest.raises(InputError, match=r"has no observation\.force; it has observation\.state, action"):
        open_recording(THEIRS / "video").episodes(["observation.force"])
    with pytest.raises(InputError, match="holds float32, no pictures"):
        open_recording(THEIRS / "video").pictures(0, STATE, [0])
