"""Recordings that LeRobot 0.6.1 wrote are read exactly, and a damaged one gives a one-line error.

`written_by_lerobot` holds two recordings, one with video and one with single images. Each has three episodes of 5, 4
and 6 steps at 30 steps per second. At step n, counted over all episodes, the state is 10 n + (0..5), the action is the
state plus 0.5, and the image shows n in binary, in black and white.
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
from tercet.arm.lerobot.write import open_for_append
from tercet.errors import InputError

WRITTEN_BY_LEROBOT = Path(__file__).parent / "written_by_lerobot"
FRONT = f"{IMAGES}.front"
DATA, VIDEO = "data/chunk-000/file-000.parquet", f"videos/{FRONT}/chunk-000/file-000.mp4"
EPISODES = "meta/episodes/chunk-000/file-000.parquet"


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(WRITTEN_BY_LEROBOT / "video", tmp_path / "copy"))


def number_in(picture: np.ndarray) -> int:
    """Return the number that an image shows in binary."""
    return sum(int(picture[16, 16 * bit + 8].mean() > 128) << bit for bit in range(4))


@pytest.mark.parametrize("kind", ["video", "image"])
def test_numbers_lengths_tasks_and_times_are_read_exactly(kind: str) -> None:
    recording = open_recording(WRITTEN_BY_LEROBOT / kind)
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
def test_each_step_has_its_own_image(kind: str) -> None:
    recording, first = open_recording(WRITTEN_BY_LEROBOT / kind), 0
    for index, length in enumerate((5, 4, 6)):
        images = recording.pictures(index, FRONT, range(length))
        assert images.shape == (length, 32, 64, 3)
        assert [number_in(picture) for picture in images] == list(range(first, first + length))
        first += length
    assert [number_in(picture) for picture in recording.pictures(2, FRONT, [1, 4])] == [10, 13]


def test_max_num_limits_the_episodes_that_are_read() -> None:
    episodes = open_recording(WRITTEN_BY_LEROBOT / "video").episodes([ACTION], max_num=2)
    assert [len(episode) for episode in episodes] == [5, 4]


def error_of(folder: Path) -> str:
    """Return the error of reading the whole recording."""
    with pytest.raises(InputError) as caught:
        read_all(open_recording(folder))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def read_all(recording: Recording) -> None:
    recording.episodes([STATE, ACTION])
    for index, length in enumerate((5, 4, 6)):
        recording.pictures(index, FRONT, range(length))


def test_a_folder_without_a_recording_is_refused(tmp_path: Path) -> None:
    assert "not a recording" in error_of(tmp_path)


@pytest.mark.parametrize("file", [DATA, VIDEO, EPISODES, "meta/tasks.parquet"])
def test_error_names_a_missing_file(copy: Path, file: str) -> None:
    (copy / file).unlink()
    message = error_of(copy)
    assert str(copy / ("meta/episodes" if file == EPISODES else file)) in message
    assert "copy the recording again" in message


@pytest.mark.parametrize("file", [DATA, VIDEO, EPISODES, "meta/tasks.parquet", "meta/info.json"])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.95])
def test_error_names_a_file_that_was_cut_off(copy: Path, file: str, share: float) -> None:
    whole = (copy / file).read_bytes()
    (copy / file).write_bytes(whole[: int(share * len(whole))])
    message = error_of(copy)
    assert str(copy / file) in message and "again" in message


@pytest.mark.parametrize("version", ["v2.0", "v2.1"])
def test_recordings_of_version_2_are_read(copy: Path, version: str) -> None:
    """The same numbers and videos in the older format, which has one file per episode."""
    whole, recording = pq.read_table(copy / DATA, partitioning=None), open_recording(copy)
    video = copy / f"videos/chunk-000/{FRONT}/episode_000000.mp4"
    video.parent.mkdir(parents=True)
    frames.write(video, recording.pictures(0, FRONT, range(5)), fps=30.0)
    (copy / DATA).unlink()
    first, lines = 0, []
    for number, length in enumerate((5, 4, 6)):
        pq.write_table(whole.slice(first, length), copy / f"data/chunk-000/episode_{number:06d}.parquet")
        task = "push it" if number == 1 else "pick the cube"
        lines.append(json.dumps({"episode_index": number, "tasks": [task], "length": length}))
        first += length
    (copy / "meta/episodes.jsonl").write_text("\n".join(lines) + "\n")
    rows = pq.read_table(copy / "meta/tasks.parquet").to_pylist()
    key = next(name for name in rows[0] if name != "task_index")
    tasks = [json.dumps({"task_index": row["task_index"], "task": row[key]}) for row in rows]
    (copy / "meta/tasks.jsonl").write_text("\n".join(tasks) + "\n")
    paths = {
        "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "video_path": "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
    }
    info = json.loads((copy / "meta/info.json").read_text())
    (copy / "meta/info.json").write_text(json.dumps({**info, **paths, "codebase_version": version}))
    reopened = open_recording(copy)
    episodes = reopened.episodes([STATE])
    assert [(len(one), one.task) for one in episodes][1] == (4, "push it")
    np.testing.assert_array_equal(
        np.concatenate([one.columns[STATE] for one in episodes]), np.arange(15)[:, None] * 10.0 + np.arange(6)
    )
    assert [number_in(picture) for picture in reopened.pictures(0, FRONT, range(5))] == [0, 1, 2, 3, 4]
    with pytest.raises(InputError, match=f"recorded in {version}; only v3.0 can be extended"):
        open_for_append(copy, reopened.info)
    (copy / "meta/episodes.jsonl").write_text('{"episode_index": 0')
    assert "episodes.jsonl: cut off, or not JSON lines" in error_of(copy)


def change(file: Path, name: str, values: pa.Array) -> None:
    table = pq.read_table(file, partitioning=None)
    pq.write_table(table.set_column(table.column_names.index(name), name, values), file)


def test_error_names_episode_and_step_of_a_number_that_is_not_finite(copy: Path) -> None:
    states = np.arange(90, dtype=np.float32)
    states[6 * 7 + 2] = np.nan  # the third step of the second episode
    change(copy / DATA, STATE, pa.FixedSizeListArray.from_arrays(states, 6))
    assert "observation.state of episode 1 is not finite at step 2" in error_of(copy)


def test_numbers_of_another_size_than_in_info_are_refused(copy: Path) -> None:
    change(copy / DATA, ACTION, pa.FixedSizeListArray.from_arrays(np.zeros(75, np.float32), 5))
    assert "action of episode 0 does not have 6 numbers per step" in error_of(copy)


def test_an_episode_with_the_wrong_number_of_rows_is_refused(copy: Path) -> None:
    change(copy / DATA, "episode_index", pa.array(np.arange(15) // 5))
    assert "has 5 rows of episode 1, but meta/episodes says 4" in error_of(copy)


def test_timestamps_that_do_not_increase_are_refused(copy: Path) -> None:
    change(copy / DATA, "timestamp", pa.array(np.zeros(15, np.float32)))
    assert "timestamps of episode 0 do not increase" in error_of(copy)


def test_a_video_without_a_frame_at_the_recorded_time_is_refused(copy: Path) -> None:
    table = pq.read_table(copy / EPISODES, partitioning=None)
    late = pa.array(np.array([0.0, 60.0, 90.0]))
    change(copy / EPISODES, f"videos/{FRONT}/from_timestamp", late)
    assert table.num_rows == 3
    assert "no frame at 60.000 s" in error_of(copy)


def test_error_for_an_unknown_feature_lists_the_features() -> None:
    with pytest.raises(InputError, match=r"has no observation\.force; it has observation\.state, action"):
        open_recording(WRITTEN_BY_LEROBOT / "video").episodes(["observation.force"])
    with pytest.raises(InputError, match="holds float32, not images"):
        open_recording(WRITTEN_BY_LEROBOT / "video").pictures(0, STATE, [0])
