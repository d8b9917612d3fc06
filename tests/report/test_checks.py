"""The checks of a run, on a sound synthetic run and with one fault each."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tercet.report.checks import checks
from tercet.report.records import Record, read
from tercet.report.summary import headline
from tercet.report.tables import win_rates

Change = Callable[[Callable[[dict[str, Any]], None]], Path]  # Any: JSON


def test_a_sound_run_passes_every_check(finished: Path) -> None:
    found = checks(read(finished))
    assert found is not None
    assert len(found.checks) == 11
    assert all(check.good for check in found.checks)


def test_a_run_without_measurements_has_no_checks(finished: Path) -> None:
    assert checks(_with(read(finished), results={}, metrics=[], held_out=[])) is None


@pytest.mark.parametrize(
    ("place", "value", "title"),
    [
        ("reward_model.accuracy.chatterbot.low", 0.49, "The reward model may be no better than chance"),
        ("reward_model.length_correlation.chatterbot", -0.7, "The reward model favours length"),
        ("kl_to_reference", 15.2, "KL from the reference above its limit"),
        ("response_length.ppo", 40.0, "Answer length changed strongly"),
        ("win_rate.ppo_vs_sft.judge", {"mean": 0.5, "low": 0.41, "high": 0.59}, "PPO exploits its reward model"),
        ("win_rate.ppo_vs_sft.reward_model.mean", 0.4, "Judge and reward model disagree"),
    ],
)
def test_a_problem_in_the_results_comes_first(change: Change, place: str, value: object, title: str) -> None:
    def edit(tree: dict[str, Any]) -> None:
        *above, last = place.split(".")
        for key in above:
            tree = tree[key]
        tree[last] = value

    found = checks(read(change(edit)))
    assert found is not None
    assert [check.title for check in found.checks if not check.good] == [title]
    assert found.checks[0].title == title


@pytest.mark.parametrize(
    ("metric", "value", "title"),
    [
        ("ppo/explained_variance", 0.05, "The critic predicts poorly"),
        ("ppo/reward_clip_fraction", 0.3, "Many scores are clipped"),
        ("ppo/clip_fraction", 0.4, "Updates are too large"),
        ("ppo/clip_fraction", 0.0, "Updates are too small"),
        ("ppo/eos_fraction", 0.2, "Many answers reach the length limit"),
    ],
)
def test_a_problem_in_the_curves_is_reported(finished: Path, metric: str, value: float, title: str) -> None:
    record = read(finished)
    rows = [row | {metric: value} if metric in row else row for row in record.metrics]
    found = checks(_with(record, metrics=rows))
    assert found is not None
    assert [check.title for check in found.checks if not check.good] == [title]


def test_collapsed_entropy_is_reported(finished: Path) -> None:
    record = read(finished)
    rows = [row | {"ppo/entropy": 2.0 if row["index"] < 9 else 0.1} for row in record.metrics if row["step"] == "ppo"]
    found = checks(_with(record, metrics=rows))
    assert found is not None
    assert found.checks[0].title == "Entropy has collapsed"


def test_the_same_answer_to_every_prompt_is_reported(finished: Path) -> None:
    record = read(finished)
    same = [row | {"answers": row["answers"] | {"ppo": "Thank you!"}} for row in record.held_out]
    found = checks(_with(record, held_out=same))
    assert found is not None
    assert found.checks[0].title == "PPO repeats itself"


def _with(record: Record, **changed: Any) -> Record:  # Any: fields of a record
    return Record(**{**vars(record), **changed})


@pytest.mark.parametrize(
    ("mean", "title", "good"),
    [(0.8, "Unseen judges do not contradict", True), (0.5, "Unseen judges do not see the gain", False)],
)
def test_unseen_judges_are_shown_and_warned_about(finished: Path, mean: float, title: str, good: bool) -> None:
    record = read(finished)
    won = {"mean": mean, "low": mean - 0.08, "high": mean + 0.08, "num_prompts": 128}
    rates = record.results["win_rate"]
    rates = rates | {"ppo_vs_sft": rates["ppo_vs_sft"] | {"base_model": won, "asks": won}}
    config = record.config | {"eval": record.config["eval"] | {"unseen_judges": ["base_model", "mine:asks"]}}
    seen = _with(record, results=record.results | {"win_rate": rates}, config=config)
    found = checks(seen)
    assert found is not None
    assert [check.good for check in found.checks if check.title == title] == [good]
    assert any("took no part in training" in sentence for sentence in headline(seen).more)
    table = win_rates(seen)
    assert table is not None
    assert [row[1] for row in table.rows][:4] == [
        "the judge, which ranked the pairs",
        "the reward model",
        "base model (unseen)",
        "asks (unseen)",
    ]
