"""Measurements and videos of the evaluation."""

import json
from pathlib import Path

import pytest
import torch
from tests.arm.conftest import make_episodes

from tercet.arm import eval as evaluation
from tercet.arm import pipeline
from tercet.arm.play.episodes import Episodes
from tercet.config.load import load_arm_config
from tercet.errors import FailedError
from tercet.runs.folder import RunFolder


def with_success(rows: list[list[int]]) -> Episodes:
    episodes = make_episodes(len(rows), len(rows[0]))
    return Episodes(**{**vars(episodes), "infos": {"success": torch.tensor(rows).float()}})


def test_success_counts_at_the_end_and_time_until_it_lasts() -> None:
    found = evaluation.outcomes_of(with_success([[0, 1, 0, 1, 1], [1, 1, 1, 1, 1], [0, 1, 1, 1, 0], [0, 0, 0, 0, 1]]))
    assert found.success.tolist() == [True, True, False, True]
    assert found.times.tolist() == [4, 1, 6, 5]
    assert found.mean_time() == pytest.approx(10 / 3)


def test_starts_are_compared_in_pairs_and_each_case_is_shown_first() -> None:
    before = evaluation.outcomes_of(with_success([[0], [0], [1], [1], [0]]))
    after = evaluation.outcomes_of(with_success([[1], [1], [1], [0], [0]]))
    assert evaluation.paired(before, after) == {"both": 1, "only_ppo": 2, "only_start": 1, "neither": 1}
    assert evaluation.starts_to_show(before, after, 5) == [
        (0, "only PPO succeeds"),
        (2, "both succeed"),
        (4, "neither succeeds"),
        (3, "only PPO fails"),
        (1, "only PPO succeeds"),
    ]


def test_a_run_writes_the_results_and_files_of_the_docs(small: list[str], tmp_path: Path) -> None:
    config = load_arm_config("lift", [*small, "eval.num_videos=1"])
    with RunFolder.open(tmp_path / "run", config, preset="lift") as folder:
        pipeline.run(folder, config)
        results = folder.results()
    for name in ("bc", "bc_noise", "ppo"):
        assert set(results["success"][name]) == {"mean", "low", "high", "num_states"}
        assert results["success"][name]["num_states"] == 6
    assert 0 <= results["reward_model"]["accuracy"] <= 1
    assert {"bc", "reward", "ppo", "eval"} <= set(results["seconds"])
    assert results["env_steps"] == 12 * (2 + 10 + 5 * 4 + 3 * 4)
    assert sum(results["paired"].values()) == 6
    assert len(json.loads((folder.path / "eval" / "starts.json").read_text())) == 6
    page = (folder.path / "report.html").read_text()
    assert "Success on fresh starts" in page and "Explained variance" in page
    if "videos_missing" in results:  # a machine without OpenGL
        assert "OpenGL" in results["videos_missing"] and "No videos were made" in page
    else:
        (shown,) = results["videos"]
        assert (folder.path / shown["file"]).stat().st_size > 1000
        assert "data:video/mp4;base64," in page
        assert shown["file"] in (folder.path / "report.md").read_text()


def test_without_opengl_the_run_continues_and_says_how_to_install_it(
    small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tercet.arm.sim.render

    def fails(*args: object, **kwargs: object) -> None:
        raise FailedError("cannot render: no OpenGL without a screen; apt-get install libegl1")

    monkeypatch.setattr(tercet.arm.sim.render.Studio, "picture", fails)
    config = load_arm_config("reach", [*small, "eval.num_videos=1"])
    with RunFolder.open(tmp_path / "run", config, preset="reach") as folder:
        pipeline.run(folder, config)
        results = folder.results()
    assert (results["videos"], "apt-get install" in results["videos_missing"]) == ([], True)
    assert "apt-get install libegl1" in (folder.path / "report.html").read_text()
