from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tercet.report import summary
from tercet.report.records import Record, read

Change = Callable[[Callable[[dict[str, Any]], None]], Path]  # Any: JSON


@pytest.mark.parametrize(
    ("mean", "low", "high", "verdict", "says"),
    [
        (0.7, 0.6, 0.8, "better", "PPO beat SFT on 70% of 128"),
        (0.55, 0.46, 0.64, "even", "No significant difference between PPO and SFT: PPO won 55% of 128"),
        (0.3, 0.22, 0.39, "worse", "PPO lost to SFT: it won only 30% of 128"),
    ],
)
def test_the_headline_follows_the_interval(
    change: Change, mean: float, low: float, high: float, verdict: str, says: str
) -> None:
    won = {"mean": mean, "low": low, "high": high, "num_prompts": 128}
    headline = summary.headline(read(change(lambda tree: tree["win_rate"]["ppo_vs_sft"].update(judge=won))))
    assert headline.verdict == verdict
    assert says in headline.text


def test_a_win_by_the_training_reward_model_has_a_caveat(change: Change) -> None:
    headline = summary.headline(read(change(lambda tree: tree["win_rate"]["ppo_vs_sft"].pop("judge"))))
    assert "by the reward model's own score" in headline.text
    assert any("not that the answers are better" in sentence for sentence in headline.more)


def test_a_judge_on_which_ppo_was_trained_is_mentioned(finished: Path) -> None:
    record = read(finished)
    paid = record.config["ppo"] | {"reward": {record.config["judge"]: 1.0}}
    headline = summary.headline(_with(record, config=record.config | {"ppo": paid}))
    assert any("on which PPO was also trained" in sentence for sentence in headline.more)
    assert any("was not trained on the judge" in sentence for sentence in summary.headline(record).more)


def test_the_source_of_the_pairs_is_stated(finished: Path) -> None:
    def said() -> str:
        return " ".join(summary.headline(read(finished)).more)

    assert "which was trained on pairs that the judge ranked" in said()
    (finished / "reward" / "pairs.jsonl").unlink()  # reward.num_sampled_pairs counts only where the data has no pairs
    assert "which was trained on the pairs of the data" in said() and "ranked" not in said()


def test_increased_perplexity_is_stated(change: Change) -> None:
    headline = summary.headline(read(change(lambda tree: tree["perplexity"].update(base=10.0, sft=12.0))))
    assert "SFT did not lower the perplexity on held-out answers: 10.0 before, 12.0 after." in headline.more


@pytest.mark.parametrize(
    ("update", "says"),
    [
        (
            0,
            "was better on validation prompts within the KL bound of 2.5 nats than the initial policy, which was kept.",
        ),
        (5, "update 5 was kept: the best score on validation prompts within the KL bound of 2.5 nats."),
    ],
)
def test_the_kl_bound_is_stated_if_a_higher_score_exceeded_it(finished: Path, update: int, says: str) -> None:
    record = read(finished)
    results = record.results | {"best_checkpoint": {"update": update, "score": 0.9, "kl": 1.0}}
    bounded = _with(record, results=results, config=record.config | {"ppo": record.config["ppo"] | {"max_kl": 2.5}})
    assert any(says in sentence for sentence in summary.headline(bounded).more)
    assert not any("KL bound" in sentence for sentence in summary.headline(record).more)


def test_a_run_that_a_watched_judge_stopped_says_so(finished: Path) -> None:
    record = read(finished)
    results = record.results | {"stopped": {"update": 15, "falls": {"asks_it": 0.25}}}
    config = record.config | {"ppo": record.config["ppo"] | {"stop_on": {"mine:asks_it": 0.1}}}
    more = summary.headline(_with(record, results=results, config=config)).more
    assert "PPO stopped after update 15 of 40, because a watched judge fell: asks it by 0.25." in more
    assert any(sentence.endswith("the best score on validation prompts within `ppo.stop_on`.") for sentence in more)
    assert not any("stop" in sentence for sentence in summary.headline(record).more)


def _with(record: Record, **changed: Any) -> Record:  # Any: fields of a record
    return Record(**{**vars(record), **changed})


def test_a_run_of_a_comparison_points_at_its_page_and_is_not_called_unmeasured(written: Path) -> None:
    record = read(written)
    results = {name: value for name, value in record.results.items() if name != "win_rate"}
    trained = replace(record, results=results)
    assert summary.headline(trained).more[-1] == "PPO has not been measured against SFT yet."
    found = summary.headline(replace(trained, metrics=[*record.metrics, {"step": "compare", "index": 0}]))
    assert found.text == "Part of a comparison, whose page (../report.html) has the figures."
    assert "tercet lm eval" in found.more[0] and any("held-out pairs" in line for line in found.more[1:])
    assert not any("not been measured" in line for line in found.more)
