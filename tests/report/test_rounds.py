"""The rounds of a run in its report."""

import json
from pathlib import Path
from typing import Any

import pytest

from tercet.report import rounds
from tercet.report.blocks import Fold, Table
from tercet.report.checks import checks
from tercet.report.page import write
from tercet.report.records import curve, read
from tercet.report.summary import headline

Tree = dict[str, Any]  # Any: JSON


def rate(mean: float) -> Tree:
    return {"mean": mean, "low": mean - 0.08, "high": mean + 0.08, "num_prompts": 128}


@pytest.fixture
def improved(finished: Path) -> Path:
    """The synthetic run, with a round whose PPO has the curves of the first."""
    results = json.loads((finished / "results.json").read_text())
    results["win_rate"] |= {f"ppo-1_vs_{other}": {"judge": rate(mean)} for other, mean in (("sft", 0.9), ("ppo", 0.6))}
    of_round = {"accuracy": {"chatterbot": rate(0.8), "round-1": rate(0.77)}}
    results["rounds"] = {"1": {"reward_model": of_round, "accuracy_before": rate(0.55), "kl_to_reference": 7.5}}
    (finished / "results.json").write_text(json.dumps(results))
    rows = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    more = [row | {"step": "ppo-1"} for row in rows if row["step"] == "ppo"]
    (finished / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*rows, *more]))
    return finished


def test_a_round_has_its_gain_its_kl_and_the_agreement_before_and_after(improved: Path) -> None:
    record = read(improved)
    gains, figures, *folds = rounds.blocks(record)[1:]
    assert isinstance(gains, Table) and isinstance(figures, Table) and isinstance(folds[0], Fold)
    assert [row[0] for row in gains.rows] == ["Round 1 against SFT", "Round 1 against PPO"]
    assert [row[0] for row in figures.rows] == ["PPO", "Round 1"]
    assert [cell.split(" ")[0] for cell in map(str, figures.rows[1]) if cell] == [
        *("Round", "7.50", "–", "–", "55%", "77%", "128")
    ]
    assert any("After 1 round of new judgements, the policy won 90%" in line for line in headline(record).more)


def test_the_curves_of_ppo_are_not_mixed_with_those_of_a_round(improved: Path) -> None:
    record = read(improved)
    once = curve(record, "ppo/score")
    assert len(record.rounds) == 1 and once == curve(record.rounds[0], "ppo/score")
    assert once[0] == sorted(set(once[0]))
    html = write(improved).read_text()
    assert "ppo-score-1-" in html and html.count('id="rounds"') == 1


@pytest.mark.parametrize(("mean", "kl", "good"), [(0.6, 7.5, True), (0.3, 7.5, False), (0.6, 30.0, False)])
def test_a_round_that_lost_or_went_too_far_is_reported(improved: Path, mean: float, kl: float, good: bool) -> None:
    record = read(improved)
    record.results["win_rate"]["ppo-1_vs_ppo"]["judge"] = rate(mean)
    record.rounds[0].results["kl_to_reference"] = kl
    shown = checks(record)
    assert shown is not None
    assert [check.good for check in shown.checks if "ound" in check.title] == [good]


def test_a_run_without_rounds_has_no_section_of_them(finished: Path) -> None:
    assert rounds.blocks(read(finished)) == []
