"""The doctor while a run trains: one line for each finding, and an end with a checkpoint if the config says so."""

import json
from pathlib import Path
from typing import Any

import pytest

from tercet.config.lm import LmConfig
from tercet.errors import FailedError
from tercet.report.doctor.examine import problems
from tercet.report.doctor.finding import Finding
from tercet.report.doctor.watch import Watch
from tercet.report.records import Record
from tercet.runs.rows import Row
from tercet.runs.stop import deferring, end, is_asked

CONFIG = LmConfig().model_dump(mode="json")


def rows_of(metric: str, *values: float, step: str = "ppo", start: int = 1) -> list[Row]:
    return [{"step": step, "index": i, metric: value} for i, value in enumerate(values, start=start)]


def feed(watch: Watch, run: Path, rows: list[Row]) -> None:
    """Write each row to the files of the run and show it to the doctor, as a step does."""
    for row in rows:
        with (run / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")
        watch(row, {"step": row["step"], "index": row["index"], "seconds": 0.1})


@pytest.fixture
def saturated() -> list[Row]:
    return rows_of("ppo/reward_clip_fraction", *[0.9] * 8)


def test_a_finding_is_one_line_and_said_once(
    tmp_path: Path, saturated: list[Row], capsys: pytest.CaptureFixture[str]
) -> None:
    feed(Watch(tmp_path, CONFIG), tmp_path, saturated)
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("doctor: Many scores are clipped: 90% of the scores were beyond ±5 in the last updates")
    assert "Raise `ppo.reward_clip`" in line and line.endswith("See docs/ppo.md#4-the-score")


def test_a_sound_row_says_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    feed(Watch(tmp_path, CONFIG), tmp_path, rows_of("ppo/reward_clip_fraction", *[0.0] * 8))
    assert capsys.readouterr().out == ""


def test_a_resumed_run_does_not_say_it_again(
    tmp_path: Path, saturated: list[Row], capsys: pytest.CaptureFixture[str]
) -> None:
    feed(Watch(tmp_path, CONFIG), tmp_path, saturated[:6])
    assert capsys.readouterr().out
    feed(Watch(tmp_path, CONFIG), tmp_path, saturated[6:])
    assert capsys.readouterr().out == ""


def test_a_repeated_step_is_examined_anew(
    tmp_path: Path, saturated: list[Row], capsys: pytest.CaptureFixture[str]
) -> None:
    feed(Watch(tmp_path, CONFIG), tmp_path, saturated)
    capsys.readouterr()
    feed(Watch(tmp_path, CONFIG), tmp_path, saturated[:4])  # rows of the first attempt are still in the file
    assert capsys.readouterr().out == ""
    feed(Watch(tmp_path, CONFIG), tmp_path, saturated)
    assert "Many scores are clipped" in capsys.readouterr().out


def test_rounds_are_examined_one_by_one(
    tmp_path: Path, saturated: list[Row], capsys: pytest.CaptureFixture[str]
) -> None:
    watch = Watch(tmp_path, CONFIG)
    feed(watch, tmp_path, saturated)
    feed(watch, tmp_path, rows_of("ppo/reward_clip_fraction", *[0.0] * 8, step="ppo-1"))
    feed(watch, tmp_path, rows_of("ppo/reward_clip_fraction", *[0.9] * 8, step="ppo-2"))
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_results_of_the_last_step_are_examined_at_the_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    watch = Watch(tmp_path, CONFIG)
    watch.end_of_step()  # nothing was run
    feed(watch, tmp_path, rows_of("reward/loss", 0.7, 0.7, step="reward"))
    accuracy = {"one": {"mean": 0.5, "low": 0.4, "high": 0.6, "num_prompts": 100}}
    (tmp_path / "results.json").write_text(json.dumps({"reward_model": {"accuracy": accuracy}}))
    assert capsys.readouterr().out == ""
    watch.end_of_step()
    assert "The reward model may be no better than chance" in capsys.readouterr().out


@pytest.mark.parametrize("on_alarm", ["say", "stop"])
def test_an_alarm_stops_a_loop_if_it_shall(tmp_path: Path, saturated: list[Row], on_alarm: str) -> None:
    watch, done = Watch(tmp_path, CONFIG | {"on_alarm": on_alarm}), 0

    def loop() -> None:
        nonlocal done
        for row in deferring(saturated):
            feed(watch, tmp_path, [row])
            done += 1
            if is_asked():
                end()

    if on_alarm == "say":
        loop()
        assert done == 8
    else:
        with pytest.raises(FailedError, match=r"ppo: stopped by on_alarm=stop\. Many scores are clipped"):
            loop()
        assert done == 5  # rows that the check needs
        loop()  # the same command continues, and the alarm was said before
        assert done == 13


def test_advice_does_not_stop(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    watch = Watch(tmp_path, CONFIG | {"on_alarm": "stop"})
    rows: list[dict[str, Any]] = [
        {"step": "ppo", "index": i, "ppo/clip_fraction": 0.0, "ppo/approx_kl": 1e-9} for i in range(1, 9)
    ]
    for row in deferring(rows):
        feed(watch, tmp_path, [row])
        assert not is_asked()
    assert "Updates are too small" in capsys.readouterr().out


def test_an_alarm_in_the_results_of_a_step_stops_before_the_next_one(tmp_path: Path) -> None:
    watch = Watch(tmp_path, CONFIG | {"on_alarm": "stop"})
    feed(watch, tmp_path, rows_of("sft/loss", 3.0, 2.9, step="sft", start=0))
    (tmp_path / "results.json").write_text(json.dumps({"perplexity": {"base": 20.0, "sft": 30.0}}))
    with pytest.raises(FailedError, match=r"sft: stopped by on_alarm=stop\. SFT made the model worse: .* 20.0 .* 30.0"):
        watch.end_of_step()
    watch.end_of_step()  # once


def test_long_steps_are_not_examined_after_every_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    num = 0

    def count(record: Record) -> list[Finding]:
        nonlocal num
        num += 1
        return problems(record)

    monkeypatch.setattr("tercet.report.doctor.watch.problems", count)
    watch = Watch(tmp_path, CONFIG)
    for row in rows_of("sft/lr", *[0.1] * 1000, step="sft", start=0):
        watch(row, {"step": "sft", "index": row["index"], "seconds": 0.1})
    assert 300 < num < 400  # 200 and then 100 for each doubling, and once at the start
