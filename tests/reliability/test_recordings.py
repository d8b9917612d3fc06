"""Hostile recordings of an arm: LeRobot folders and .npz files with values, names and bytes that nobody recorded.

Each case ends in the numbers that were recorded, or in one error that names the file.
"""

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.reliability.amounts import Count, Outcome, cases

from tercet.arm.demonstrations import recordings
from tercet.arm.demonstrations.data import Demonstrations, load_recording
from tercet.arm.networks.sizes import Sizes
from tercet.config.arm import BcConfig
from tercet.errors import REPORT_IT

COUNT = Count("recordings")
count = COUNT.fixture()

SECONDS = 20.0
DATA, EPISODES = "data/chunk-000/file-000.parquet", "meta/episodes/chunk-000/file-000.parquet"
FILES = (DATA, EPISODES, "meta/info.json", "meta/tasks.parquet")
SEEN = [np.arange(12, dtype=np.float32).reshape(4, 3) + index for index in range(2)]
DONE = [np.linspace(-1, 1, 8, dtype=np.float32).reshape(4, 2) * (1 - index / 4) for index in range(2)]


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Path]:
    """A fresh copy of a right recording for each case."""
    whole = tmp_path_factory.mktemp("whole") / "demos"
    recordings.save(whole, SEEN, DONE, env="lift")
    return lambda: Path(shutil.copytree(whole, tmp_path_factory.mktemp("case") / "demos"))


def judged(path: Path) -> Outcome:
    """Load as one case; a refusal names the recording and was foreseen, and what is loaded was recorded."""
    start = time.process_time()
    config = BcConfig(num_demonstrations=2)
    outcome = COUNT.attempt(lambda: load_recording(path, Sizes(3, 2), config, env="lift"))
    assert time.process_time() - start < SECONDS
    if outcome.refusal:
        assert REPORT_IT not in outcome.refusal, outcome.refusal
        assert str(path) in outcome.refusal, outcome.refusal
        assert len(outcome.refusal) < 3000
        return outcome
    loaded: Demonstrations = outcome.value
    assert loaded.observations.isfinite().all() and loaded.actions.isfinite().all()
    assert loaded.actions.abs().max() <= 1 + 1e-5
    return outcome


def require_as_recorded(loaded: Demonstrations) -> None:
    np.testing.assert_array_equal(loaded.observations[loaded.mask].numpy(), np.concatenate(SEEN))
    np.testing.assert_allclose(loaded.actions[loaded.mask].numpy(), np.concatenate(DONE), atol=1e-6)


def test_a_right_recording_is_read_as_it_was_recorded(copied: Callable[[], Path], tmp_path: Path) -> None:
    require_as_recorded(judged(copied()).value)
    arrays = {"observations": np.stack(SEEN), "actions": np.stack(DONE), "lengths": np.array([4, 4])}
    np.savez(tmp_path / "r.npz", **arrays)
    require_as_recorded(judged(tmp_path / "r.npz").value)


LONG = int("9" * 400)
VALUES: list[Any] = [None, True, False, -1, 0, 1, 1.5, LONG, 10**12, "", "x", "a\0b", [], [1], [None], {}, {"a": 1}]
PATTERNS = ["/etc/passwd", "../{chunk_index}", "{chunk_index.__class__}", "{0}", "{", "{file_index:99999999d}", "{x}"]
LITERALS = ["NaN", "Infinity", "-Infinity", "1e999", "1" * 5000, "[" * 5000 + "]" * 5000, '"\\ud83d"', "", "nul"]


@st.composite
def info_changes(draw: st.DrawFn) -> Callable[[dict[str, Any]], str]:
    """One thing in meta/info.json that is not what it must be; the whole text of the file then."""
    value = draw(st.sampled_from([*VALUES, *PATTERNS]))
    literal = draw(st.none() | st.sampled_from(LITERALS))
    key = draw(st.sampled_from(["fps", "features", "total_episodes", "total_frames", "data_path", "codebase_version"]))
    inner = draw(st.none() | st.sampled_from(["dtype", "shape", "names", "units"]))
    feature = draw(st.sampled_from(["observation.state", "action", "timestamp"]))
    is_twice = draw(st.booleans())

    def changed(info: dict[str, Any]) -> str:
        place, name = (info["features"][feature], inner) if inner else (info, key)
        place[name] = "@@" if literal is not None else value
        text = json.dumps(info)
        if literal is not None:
            return text.replace('"@@"', literal)
        return text[:-1] + ', "fps": 20}' if is_twice else text

    return changed


@settings(max_examples=cases(200))
@given(change=info_changes())
def test_an_info_that_says_something_else(copied: Callable[[], Path], change: Callable[[dict[str, Any]], str]) -> None:
    path = copied()
    file = path / "meta/info.json"
    text = change(json.loads(file.read_text(encoding="utf-8")))
    file.write_text(text, encoding="utf-8")
    outcome = judged(path)
    if not outcome.refusal:
        require_as_recorded(outcome.value)
        assert text.count('"fps"') == 1


def state(value: float) -> pa.Array:
    rows = np.concatenate(SEEN).astype(np.float64)
    rows[5, 1] = value
    return pa.array(rows.tolist(), pa.list_(pa.float64()))


COLUMNS: dict[str, list[pa.Array]] = {
    "observation.state": [
        *map(state, [np.nan, np.inf, -np.inf, 1e300, -1e39]),
        pa.array([[True, False, True]] * 8),
        pa.array([["a", "b", "c"]] * 8),
        pa.array([[1.0, None, 3.0]] * 8),
        pa.array([[1.0, 2.0]] * 8),
        pa.array([None] * 8, pa.list_(pa.float32())),
        pa.array(["x"] * 8),
        pa.array([[[1.0], [2.0]]] * 8),
        pa.array([b"\0"] * 8),
    ],
    "action": [
        pa.array([[np.nan, 0.0]] * 8),
        pa.array([[7.0, 0.0]] * 8),
        pa.array([[True, True]] * 8),
        pa.array([{"x": 1.0}] * 8),
    ],
    "timestamp": [
        pa.array([np.nan] * 8),
        pa.array([0.0, 1.0, 2.0, np.inf] * 2),
        pa.array(["0"] * 8),
        pa.array([None] * 8, pa.float32()),
        pa.array([2**62] * 8, pa.timestamp("us")),
    ],
    "episode_index": [
        pa.array([0.5] * 8),
        pa.array([None] * 8, pa.int64()),
        pa.array([-1] * 8),
        pa.array([0, 1] * 4),
        pa.array([True] * 8),
        pa.array([[0]] * 8),
    ],
    "task_index": [pa.array([None] * 8, pa.int64()), pa.array(["a"] * 8), pa.array([np.nan] * 8)],
}


@pytest.mark.parametrize("name", COLUMNS)
@pytest.mark.parametrize("how", ["instead", "twice", "gone"])
def test_a_column_of_something_else_is_refused(copied: Callable[[], Path], name: str, how: str) -> None:
    for values in COLUMNS[name]:
        path = copied()
        table = pq.read_table(path / DATA, partitioning=None)
        if how == "gone":
            table = table.drop_columns([name])
        elif how == "twice":
            table = table.append_column(name, values)
        else:
            table = table.set_column(table.column_names.index(name), name, values)
        pq.write_table(table, path / DATA)
        assert judged(path).refusal


@settings(max_examples=cases(120))
@given(
    file=st.sampled_from([EPISODES, "meta/tasks.parquet"]),
    value=st.one_of(st.none(), st.booleans(), st.floats(), st.text(max_size=3), st.integers(-(2**63), 2**63 - 1)),
    number=st.integers(0, 30),
    is_twice=st.booleans(),
)
def test_a_table_of_meta_that_says_something_else(
    copied: Callable[[], Path], file: str, value: Any, number: int, is_twice: bool
) -> None:
    path = copied()
    table = pq.read_table(path / file, partitioning=None)
    at = number % table.num_columns
    name, values = table.column_names[at], pa.array([value] * table.num_rows)
    table = table.append_column(name, values) if is_twice else table.set_column(at, name, values)
    pq.write_table(table, path / file)
    outcome = judged(path)
    if not outcome.refusal:
        require_as_recorded(outcome.value)
        assert not is_twice


@settings(max_examples=cases(250))
@given(
    file=st.sampled_from(FILES),
    share=st.floats(0, 1),
    junk=st.binary(min_size=1, max_size=8),
    how=st.sampled_from(["cut", "over", "put", "pipe", "folder", "gone"]),
)
def test_a_damaged_file_is_one_message(
    copied: Callable[[], Path], file: str, share: float, junk: bytes, how: str
) -> None:
    path = copied()
    data = (path / file).read_bytes()
    at = int(share * len(data))
    (path / file).unlink()
    if how == "pipe":
        os.mkfifo(path / file)
    elif how == "folder":
        (path / file).mkdir()
    elif how != "gone":
        rest = {"cut": b"", "over": junk + data[at + len(junk) :], "put": junk + data[at:]}[how]
        (path / file).write_bytes(data[:at] + rest)
    outcome = judged(path)
    assert outcome.refusal or how in ("cut", "over", "put")


ARRAYS: dict[str, list[Any]] = {
    "observations": [
        np.full((2, 4, 3), np.nan),
        np.full((2, 4, 3), 1e300),
        np.ones((2, 4, 3), bool),
        np.ones((2, 4, 3), complex),
        np.full((2, 4, 3), "a"),
        np.zeros((2, 4, 3), "datetime64[s]"),
        np.ones((0, 4, 3)),
        np.ones((2, 4)),
        np.float64(1.0),
    ],
    "actions": [np.full((2, 4, 2), np.inf), np.full((2, 4, 2), 7.0), np.ones((2, 4, 2), bool), np.ones((2, 3, 2))],
    "lengths": [np.array([4, 2.7]), np.array([4, np.nan]), np.array([0, 4]), np.array([5, 4]), np.array([True, True])],
}


@pytest.mark.parametrize("name", ARRAYS)
def test_an_array_of_something_else_is_refused(name: str, tmp_path: Path) -> None:
    right = {"observations": np.stack(SEEN), "actions": np.stack(DONE), "lengths": np.array([4, 4])}
    for values in ARRAYS[name]:
        np.savez(tmp_path / "r.npz", **{**right, name: values})
        assert judged(tmp_path / "r.npz").refusal


@settings(max_examples=cases(150))
@given(share=st.floats(0, 1), junk=st.binary(max_size=8), is_cut=st.booleans(), is_packed=st.booleans())
def test_damaged_bytes_of_an_archive_are_one_message(
    copied: Callable[[], Path], share: float, junk: bytes, is_cut: bool, is_packed: bool
) -> None:
    path = copied().parent / "r.npz"
    save = np.savez_compressed if is_packed else np.savez
    save(path, observations=np.stack(SEEN), actions=np.stack(DONE), lengths=np.array([4, 4]))
    data = path.read_bytes()
    at = int(share * len(data))
    path.write_bytes(data[:at] + junk + (b"" if is_cut else data[at + len(junk) :]))
    outcome = judged(path)
    if not outcome.refusal:
        require_as_recorded(outcome.value)
