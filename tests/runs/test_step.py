"""A step's rows, checkpoints and end."""

import json
from pathlib import Path

import pytest

from tercet.config.lm import LmConfig
from tercet.errors import FailedError
from tercet.runs.folder import RunFolder
from tercet.runs.integrity import read_sealed, sealed
from tercet.runs.rows import Row, read_rows


def _weights(folder: Path) -> None:
    (folder / "weights").write_text("w")


def _fills_the_disk(folder: Path) -> None:
    Path("/dev/full").write_text("no room")  # the system's own word for a full disk


def test_the_callback_gets_each_row_as_in_the_file(tmp_path: Path) -> None:
    rows: list[Row] = []
    config = LmConfig.model_validate({})
    folder = RunFolder.open(tmp_path / "run", config, preset="tiny", on_row=rows.append)
    with folder, folder.step("sft", total=2, shown=[]) as step:
        step.log(0, {"sft/loss": 1.5, "sft/odd": float("nan")})
    assert rows == folder.metrics() == [{"step": "sft", "index": 0, "sft/loss": 1.5}]


class _Notes(list[Row]):
    def __call__(self, row: Row, timing: Row) -> None:
        self.extend([row, timing])

    def end_of_step(self) -> None:
        self.append({"step": "has ended"})


def test_the_watch_sees_each_row_and_its_times_before_the_callback_and_the_end(tmp_path: Path) -> None:
    seen = _Notes()
    folder = RunFolder.open(tmp_path / "run", LmConfig(), preset="tiny", on_row=seen.append, watch=seen)
    with folder, folder.step("ppo", total=1, shown=[]) as step:
        step.log(0, {"ppo/score": 1.5}, seconds={"reward_seconds": 0.25})
    folder.end_of_step()
    row, timing, again, end = seen
    assert row == again == {"step": "ppo", "index": 0, "ppo/score": 1.5} and end == {"step": "has ended"}
    assert [timing] == read_rows(folder.path / "timings.jsonl")
    assert timing["reward_seconds"] == 0.25
    assert all(timing[name] >= 0 for name in ("seconds", "cpu_seconds", "other_cpus"))


def test_a_finished_step_has_rows_and_results_but_no_checkpoint(folder: RunFolder) -> None:
    with folder.step("sft", total=2, shown=["sft/loss"]) as step:
        assert step.restore() is None
        for index in range(2):
            step.log(index, {"sft/loss": 1.5 - index, "sft/odd": float("nan")})
            step.save({"next": index + 1}, _weights)
        assert not folder.is_done("sft")
        assert step.save_folder("model", _weights) == folder.path / "sft" / "model"
        step.finish({"perplexity": {"sft": 3.0}})
    assert folder.is_done("sft")
    assert folder.metrics() == [
        {"step": "sft", "index": 0, "sft/loss": 1.5},
        {"step": "sft", "index": 1, "sft/loss": 0.5},
    ]
    assert folder.results()["perplexity"] == {"sft": 3.0}
    assert folder.results()["seconds"]["sft"] >= 0
    assert sorted(path.name for path in step.path.iterdir()) == ["done.json", "model", "results.json"]


def test_the_progress_bar_excludes_the_rows_before_the_first_unit(
    folder: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    with folder.step("ppo", total=2, num_before=1, shown=[]) as step:
        for index in range(2):
            step.log(index, {"ppo/score": 0.5})
        step.save({}, _weights)
    with folder.step("ppo", total=2, num_before=1, shown=[]) as step:
        step.log(2, {"ppo/score": 0.5})
        step.finish({})
    assert [line.split()[1] for line in capsys.readouterr().out.splitlines()] == ["1/2", "2/2"]


def test_a_step_resumes_from_its_checkpoint_and_drops_later_rows(folder: RunFolder) -> None:
    with pytest.raises(KeyboardInterrupt), folder.step("ppo", total=9, shown=[]) as step:
        step.log(0, {"ppo/score": 0.1})
        step.show(0, [{"prompt": "a", "response": "b", "score": 1.0}])
        step.save({"next": 1, "kl_coef": 0.1 + 0.2}, _weights)
        step.log(1, {"ppo/score": 0.2})
        step.show(1, [{"prompt": "a", "response": "c", "score": 1.0}])
        raise KeyboardInterrupt
    assert len(folder.metrics()) == len(folder.samples()) == 2
    with folder.step("ppo", total=9, shown=[]) as step:
        restored = step.restore()
        assert restored is not None
        assert restored[0] == {"next": 1, "kl_coef": 0.30000000000000004}
        assert (restored[1] / "weights").read_text() == "w"
        assert [row["index"] for row in folder.metrics()] == [0]
        assert [row["response"] for row in folder.samples()] == ["b"]


def test_a_step_without_checkpoint_drops_only_its_own_rows(folder: RunFolder) -> None:
    for name in ("sft", "ppo"):
        with folder.step(name, total=2, shown=[]) as step:
            step.log(0, {"x": 1.0})
    with folder.step("ppo", total=2, shown=[]):
        assert [row["step"] for row in folder.metrics()] == ["sft"]


def test_kept_rollouts_after_the_last_checkpoint_are_dropped(folder: RunFolder) -> None:
    with folder.step("ppo", total=4, shown=[], num_before=1) as step:
        step.log(0, {})
        for index in (1, 2):
            step.keep(index, _weights)
            step.log(index, {})
        step.save({}, _weights)
        step.keep(3, _weights)
        step.log(3, {})
        with pytest.raises(FailedError, match="the disk is full"):
            step.keep(4, _fills_the_disk)
    rollouts = folder.path / "ppo" / "rollouts"
    assert sorted(path.name for path in rollouts.iterdir()) == ["1", "2", "3"]
    with folder.step("ppo", total=4, shown=[], num_before=1) as step:
        assert sorted(path.name for path in rollouts.iterdir()) == ["1", "2"]
        step.finish({})
    with folder.step("ppo", total=4, shown=[], num_before=1):  # from the start again
        assert not rollouts.exists()


def test_a_finished_step_is_restarted(folder: RunFolder) -> None:
    for attempt in range(2):
        with folder.step("eval", total=1, shown=[]) as step:
            assert step.restore() is None
            assert not folder.is_done("eval")
            step.log(0, {"x": float(attempt)})
            step.save({}, _weights)
            step.finish({})
    assert [row["x"] for row in folder.metrics()] == [1.0]


def test_leftovers_of_a_kill_at_the_end_are_removed_at_the_next_opening(tmp_path: Path) -> None:
    config = LmConfig.model_validate({})
    with (
        RunFolder.open(tmp_path / "run", config, preset="tiny") as folder,
        folder.step("sft", total=1, shown=[]) as step,
    ):
        step.save({}, _weights)
        step.finish({})
    (step.path / "checkpoint").mkdir()
    (step.path / ".checkpoint.old").mkdir()
    with RunFolder.open(tmp_path / "run", config, preset="tiny") as folder:
        assert folder.is_done("sft")
        assert sorted(path.name for path in step.path.iterdir()) == ["done.json", "results.json"]


def test_seconds_add_up_over_attempts(folder: RunFolder) -> None:
    with folder.step("sft", total=1, shown=[]) as step:
        step.save({}, _weights)
    file = step.path / "checkpoint" / "state.json"
    file.write_text(sealed({**read_sealed(file), "seconds": 1000.0}))
    with folder.step("sft", total=1, shown=[]) as step:
        step.finish({})
    assert 1000 <= folder.results()["seconds"]["sft"] < 1060


def test_times_are_logged_apart_from_metrics(folder: RunFolder) -> None:
    with folder.step("sft", total=2, shown=[]) as step:
        step.log(0, {"a": 1.0})
        step.log(1, {"a": 1.0})
    timings = [json.loads(line) for line in (folder.path / "timings.jsonl").read_text().splitlines()]
    assert [(row["step"], row["index"]) for row in timings] == [("sft", 0), ("sft", 1)]
    assert set(folder.metrics()[0]) == {"step", "index", "a"}


def test_a_full_disk_while_saving_keeps_the_last_checkpoint(folder: RunFolder) -> None:
    with folder.step("sft", total=2, shown=[]) as step:
        step.save({"next": 1}, _weights)
        with pytest.raises(FailedError, match="checkpoint: the disk is full"):
            step.save({"next": 2}, _fills_the_disk)
    with folder.step("sft", total=2, shown=[]) as step:
        restored = step.restore()
        assert restored is not None
        assert restored[0] == {"next": 1}


def test_sampled_answers_are_printed_on_one_line_each(folder: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    samples = [{"prompt": "Who?\n[bold]", "response": "x" * 500, "score": 0.123456}] * 9
    with folder.step("ppo", total=1, shown=[]) as step:
        step.show(4, samples)
    lines = [line for line in capsys.readouterr().out.splitlines() if "Who?" in line]
    assert len(lines) == 3
    assert lines[0].startswith("  ppo 4: Who? [bold] | xxx")
    assert lines[0].endswith("… | 0.123")
    assert len(folder.samples()) == 9
