"""A written recording can be read again, also by LeRobot, and a kill during writing leaves it readable."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tercet.arm.lerobot import write
from tercet.arm.lerobot.layout import ACTION, IMAGES, STATE, Feature, Info
from tercet.arm.lerobot.read import open_recording
from tercet.arm.lerobot.write import NewEpisode, append
from tercet.errors import InputError

FRONT = f"{IMAGES}.front"
INFO = Info(
    fps=20.0,
    features={
        STATE: Feature("float32", (3,), ("x", "y", "z")),
        ACTION: Feature("float32", (2,)),
        "next.success": Feature("bool", (1,)),
        FRONT: Feature("video", (32, 64, 3), ("height", "width", "channels")),
    },
    robot_type="tercet",
)


def episode(length: int, task: str = "lift", *, seed: int = 0) -> NewEpisode:
    chance = np.random.default_rng(seed)
    pictures = [np.full((32, 64, 3), 10 * seed + 5 * step, np.uint8) for step in range(length)]
    columns = {
        STATE: chance.normal(size=(length, 3)).astype(np.float32),
        ACTION: chance.normal(size=(length, 2)).astype(np.float32),
        "next.success": np.arange(length)[:, None] == length - 1,
    }
    return NewEpisode(task, columns, {FRONT: pictures})


def test_written_episodes_are_read_back(tmp_path: Path) -> None:
    given = [episode(5), episode(3, "push", seed=1), episode(7, seed=2)]
    append(tmp_path / "new", INFO, given[:2])
    append(tmp_path / "new", INFO, given[2:])
    recording = open_recording(tmp_path / "new")
    assert recording.tasks == {0: "lift", 1: "push"}
    assert (recording.info.num_episodes, recording.info.num_frames) == (3, 15)
    for read, written in zip(recording.episodes([STATE, ACTION, "next.success"]), given, strict=True):
        assert read.task == written.task
        for key, values in written.columns.items():
            np.testing.assert_array_equal(read.columns[key], values)
        images = recording.pictures(read.index, FRONT, range(len(written)))
        assert np.abs(images.astype(int) - np.stack(written.pictures[FRONT])).max() <= 4  # H.264 is not lossless


def test_statistics_of_several_appends_equal_those_of_all_rows(tmp_path: Path) -> None:
    parts = [episode(5), episode(40, seed=1), episode(2, seed=2)]
    for part in parts:
        append(tmp_path / "new", INFO, [part])
    stats = json.loads((tmp_path / "new/meta/stats.json").read_text())
    rows = np.concatenate([part.columns[STATE] for part in parts]).astype(np.float64)
    np.testing.assert_allclose(stats[STATE]["mean"], rows.mean(0))
    np.testing.assert_allclose(stats[STATE]["std"], rows.std(0))
    np.testing.assert_allclose(stats[STATE]["min"], rows.min(0))
    np.testing.assert_allclose(stats[STATE]["max"], rows.max(0))
    assert stats[STATE]["count"] == [47] and stats["index"]["max"] == [46]
    assert np.shape(stats[FRONT]["mean"]) == (3, 1, 1) and 0 < stats[FRONT]["mean"][0][0][0] < 1


@pytest.mark.parametrize("killed_at", ["info.json", "stats.json", "file-001.parquet", "tasks.parquet", "file-001.mp4"])
def test_a_kill_during_append_leaves_the_recording_unchanged(
    tmp_path: Path, killed_at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    append(tmp_path / "new", INFO, [episode(5)])
    replaced = Path.replace

    def interrupt(self: Path, target: Path) -> Path:
        if target.name == killed_at:
            raise KeyboardInterrupt
        return replaced(self, target)

    monkeypatch.setattr(Path, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        append(tmp_path / "new", INFO, [episode(4, "push", seed=1)])
    monkeypatch.undo()
    assert [len(one) for one in open_recording(tmp_path / "new").episodes([STATE])] == [5]
    append(tmp_path / "new", INFO, [episode(6, seed=2)])
    recording = open_recording(tmp_path / "new")
    assert [len(one) for one in recording.episodes([STATE])] == [5, 6]
    np.testing.assert_array_equal(recording.episodes([STATE])[1].columns[STATE], episode(6, seed=2).columns[STATE])
    assert json.loads((tmp_path / "new/meta/stats.json").read_text())[STATE]["count"] == [11]
    assert not list((tmp_path / "new").rglob("*.partial"))


def test_an_episode_that_does_not_fit_is_refused_before_writing(tmp_path: Path) -> None:
    whole = episode(5)
    bad = {
        "has shape": {**whole.columns, ACTION: np.zeros((5, 3))},
        "4 values for 5 steps": {**whole.columns, ACTION: np.zeros((4, 2))},
        "not finite": {**whole.columns, ACTION: np.full((5, 2), np.nan)},
    }
    for message, columns in bad.items():
        with pytest.raises(InputError, match=message):
            append(tmp_path / "new", INFO, [NewEpisode("lift", columns, whole.pictures)])
    with pytest.raises(InputError, match=f"{FRONT}: 0 values for 5 steps"):
        append(tmp_path / "new", INFO, [NewEpisode("lift", whole.columns)])
    assert not (tmp_path / "new").exists()


def test_append_to_a_recording_of_another_robot_is_refused(tmp_path: Path) -> None:
    append(tmp_path / "new", INFO, [episode(3)])
    with pytest.raises(InputError, match="a recording of tercet, not so101_follower; give a new folder"):
        append(tmp_path / "new", replace(INFO, robot_type="so101_follower"), [episode(3)])


def test_append_to_another_recording_or_to_other_files_is_refused(tmp_path: Path) -> None:
    append(tmp_path / "new", INFO, [episode(5)])
    other = Info(20.0, {STATE: Feature("float32", (4,))}, INFO.robot_type)
    with pytest.raises(InputError, match=r"another observation\.state, action"):
        append(tmp_path / "new", other, [NewEpisode("lift", {STATE: np.zeros((2, 4))})])
    (tmp_path / "else").mkdir()
    (tmp_path / "else/thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="not empty, and not a recording"):
        append(tmp_path / "else", INFO, [episode(5)])


def test_files_beyond_one_chunk_start_the_next_chunk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(write, "FILES_PER_CHUNK", 2)
    info = Info(20.0, {STATE: Feature("float32", (1,))})
    for number in range(5):
        append(tmp_path / "new", info, [NewEpisode("lift", {STATE: np.full((2, 1), number)})])
    assert (tmp_path / "new/data/chunk-002/file-000.parquet").exists()
    assert [one.columns[STATE][0, 0] for one in open_recording(tmp_path / "new").episodes([STATE])] == [*range(5)]


def test_lerobot_reads_what_we_wrote(tmp_path: Path) -> None:
    datasets = pytest.importorskip("lerobot.datasets.lerobot_dataset", reason="needs lerobot >= 0.6")
    given = [episode(5), episode(3, "push", seed=1)]
    for one in given:
        append(tmp_path / "new", INFO, [one])
    dataset = datasets.LeRobotDataset("local/new", root=tmp_path / "new")
    assert (dataset.num_episodes, dataset.num_frames) == (2, 8)
    row = dataset[6]  # the second step of the second episode
    assert row["task"] == "push"
    np.testing.assert_array_equal(row[STATE].numpy(), given[1].columns[STATE][1])
    assert abs(float(row[FRONT].mean()) * 255 - 15) < 2
    assert dataset.meta.stats[ACTION]["mean"].shape == (2,)
