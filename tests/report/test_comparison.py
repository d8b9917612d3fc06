"""Win rates of a comparison: over prompts, with the mean of the seeds, and without answers that have no score."""

from dataclasses import replace
from pathlib import Path

import pytest

from tercet.core.intervals import Interval
from tercet.report.blocks import Prose
from tercet.report.comparison import Measured, Outcome, Row, _wins, judges
from tercet.report.comparison_page import _below_budget


def run_of(*scores: float | None) -> Measured:
    rows: list[Row] = [{"scores": {"judge": score}, "kl": 1.0 + i, "tokens": 4} for i, score in enumerate(scores)]
    return Measured(Path("run"), rows, None, None, 2.0, None, None)


def test_each_prompt_has_the_wins_of_all_seeds_and_a_tie_counts_half() -> None:
    before = run_of(1.0, 1.0, 1.0, None).answers
    assert _wins([run_of(2.0, 1.0, 0.0, 5.0), run_of(3.0, 0.0, None, 5.0)], before, "judge") == [[1.0, 1.0], [0.5, 0.0]]


def test_means_are_over_the_seeds_and_leave_out_what_was_not_measured() -> None:
    outcome = Outcome("ppo", [run_of(1.0, 1.0), run_of(1.0)], {}, {})
    assert outcome.kl == pytest.approx((1.5 + 1.0) / 2)
    assert outcome.mean("seconds") == 2.0 and outcome.mean("peak_bytes") is None


def test_the_page_names_runs_that_ended_below_their_budget() -> None:
    less, enough, none = (
        replace(run_of(1.0), folder=Path(name), sampled_tokens=tokens, budget=budget)
        for name, tokens, budget in (("grpo-1", 1200.0, 3000.0), ("ppo-0", 3010.0, 3000.0), ("dpo-0", None, None))
    )
    (line,) = _below_budget([Outcome("grpo", [less, enough], {}, {}), Outcome("dpo", [none], {}, {})])
    assert isinstance(line, Prose) and "Below the budget: grpo-1 ended after 1,200 of 3,000 tokens; " in line.text
    assert _below_budget([Outcome("ppo", [enough, none], {}, {})]) == []


def test_only_judges_that_scored_every_algorithm_are_compared() -> None:
    rate = Interval(0.5, 0.4, 0.6, 8)
    one, other = {"judge": rate, "unseen": rate}, {"unseen": rate}
    assert judges([Outcome("ppo", [], one, {}), Outcome("dpo", [], other, {})]) == ["unseen"]
    assert judges([]) == []
