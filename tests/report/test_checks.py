"""The findings of the doctor in the report, on a sound synthetic run and with one fault each."""

import random
from collections.abc import Callable
from pathlib import Path
from statistics import fmean, stdev
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
    assert len(found.checks) > 15
    assert all(check.good for check in found.checks)


def test_a_run_without_measurements_has_no_checks(finished: Path) -> None:
    assert checks(_with(read(finished), results={}, metrics=[], held_out=[])) is None


@pytest.mark.parametrize(
    ("place", "value", "title"),
    [
        ("reward_model.accuracy.chatterbot.low", 0.49, "The reward model may be no better than chance"),
        ("reward_model.length_correlation.chatterbot", -0.85, "The reward model measures length"),
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
        ("ppo/explained_variance", 0.01, "The critic explains nothing"),
        ("ppo/reward_clip_fraction", 0.3, "Many scores are clipped"),
        ("ppo/clip_fraction", 0.4, "Updates are too large"),
        ("ppo/eos_fraction", 0.2, "Many responses reach the length limit"),
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


def _watching(record: Record, asks: list[float], error: float = 0.02, rise: float = 0.1) -> Record:
    """The run with a watched judge at each validation, and a validation score that rises by `rise` each time."""
    rows = [
        {
            "step": "ppo",
            "index": 5 * i,
            "ppo/validation_score": i * rise,
            "ppo/watch/asks": value,
            "ppo/watch_error/asks": error,
        }
        for i, value in enumerate(asks)
    ]
    config = record.config | {"ppo": record.config["ppo"] | {"watch": ["mine:asks"]}}
    return _with(record, metrics=rows, config=config)


HACKED = "A watched judge falls while the score rises"


@pytest.mark.parametrize(
    ("asks", "error", "rise", "warns"),
    [
        ([0.7, 0.7, 0.6, 0.5, 0.4], 0.02, 0.1, True),
        ([0.7, 0.7, 0.6, 0.5, 0.4], 0.1, 0.1, False),  # within noise
        ([0.7, 0.7, 0.6, 0.5, 0.4], 0.02, -0.1, False),  # both fall: no reward hacking
        ([0.7, 0.7, 0.7, 0.7, 0.4], 0.02, 0.1, False),  # once
        ([0.7, 0.4, 0.4, 0.4, 0.7], 0.02, 0.1, False),  # it has recovered
        ([0.4, 0.5, 0.6, 0.7, 0.7], 0.02, 0.1, False),
        ([0.7, 0.644, 0.644, 0.644], 0.02, 0.1, False),  # two standard errors of the difference are 0.0566
        ([0.7, 0.643, 0.643, 0.643], 0.02, 0.1, True),
    ],
)
def test_a_watched_judge_that_falls_while_the_score_rises_is_reported(
    finished: Path, asks: list[float], error: float, rise: float, warns: bool
) -> None:
    found = checks(_watching(read(finished), asks, error, rise))
    assert found is not None
    assert [check.title for check in found.checks if "atched judge" in check.title] == (
        [HACKED] if warns else ["Watched judges do not fall while the score rises"]
    )
    assert (found.checks[0].title == HACKED) == warns


def test_noise_of_a_watched_judge_does_not_warn(finished: Path) -> None:
    """32 prompts with scores in [0, 1] and no true change: fewer than 1 in 100 runs may warn."""
    record, chance, num_warned = read(finished), random.Random(0), 0
    for _ in range(400):
        drawn = [[chance.random() for _ in range(32)] for _ in range(6)]
        watched = _watching(record, [fmean(scores) for scores in drawn], stdev(drawn[0]) / 32**0.5)
        found = checks(watched)
        num_warned += found is not None and found.checks[0].title == HACKED
    assert num_warned < 4


def test_too_few_validations_tell_nothing_of_a_watched_judge(finished: Path) -> None:
    found = checks(_watching(read(finished), [0.7, 0.1, 0.1]))
    assert found is not None
    assert not [check for check in found.checks if "atched judge" in check.title]


def _with(record: Record, **changed: Any) -> Record:  # Any: fields of a record
    return Record(**{**vars(record), **changed})


@pytest.mark.parametrize(
    ("means", "title", "good"),
    [
        ((0.8, 0.8), "Unseen judges do not contradict", True),
        ((0.5, 0.8), "Not every unseen judge sees the gain", False),
        ((0.5, 0.5), "Unseen judges do not see the gain", False),
    ],
)
def test_unseen_judges_are_shown_and_warned_about(
    finished: Path, means: tuple[float, float], title: str, good: bool
) -> None:
    record = read(finished)
    won, too = ({"mean": mean, "low": mean - 0.08, "high": mean + 0.08, "num_prompts": 128} for mean in means)
    rates = record.results["win_rate"]
    rates = rates | {"ppo_vs_sft": rates["ppo_vs_sft"] | {"base_model": won, "asks": too}}
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
