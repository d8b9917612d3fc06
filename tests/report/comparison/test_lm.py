"""Win rates of a comparison: without answers that have no score, and with a word on runs below their budget."""

from dataclasses import replace
from pathlib import Path

from tercet.core.intervals import Interval
from tercet.report.blocks import Prose
from tercet.report.comparison.lm import _below_budget, _judges, _wins
from tercet.report.comparison.numbers import Measured, Outcome, Row


def run_of(*scores: float | None) -> Measured:
    rows: list[Row] = [{"scores": {"judge": score}, "kl": 1.0 + i, "tokens": 4} for i, score in enumerate(scores)]
    return Measured(Path("run"), rows)


def test_each_prompt_has_the_wins_of_all_seeds_and_a_tie_counts_half() -> None:
    before = run_of(1.0, 1.0, 1.0, None).rows
    assert _wins([run_of(2.0, 1.0, 0.0, 5.0), run_of(3.0, 0.0, None, 5.0)], before, "judge") == [[1.0, 1.0], [0.5, 0.0]]


def test_the_page_names_runs_that_ended_below_their_budget() -> None:
    less, enough, none = (
        replace(
            run_of(1.0),
            folder=Path(name),
            metrics=[{"step": "ppo", "index": 1, "ppo/sampled_tokens": tokens}] if tokens else [],
            config={"ppo": {"max_sampled_tokens": 3000}},
        )
        for name, tokens in (("grpo-1", 1200), ("ppo-0", 3010), ("dpo-0", None))
    )
    (line,) = _below_budget([Outcome("grpo", [less, enough], {}, {}), Outcome("dpo", [none], {}, {})])
    assert isinstance(line, Prose) and "Below the budget: grpo-1 ended after 1,200 of 3,000 tokens; " in line.text
    assert _below_budget([Outcome("ppo", [enough, none], {}, {})]) == []


def test_only_judges_that_scored_every_algorithm_are_compared() -> None:
    rate = Interval(0.5, 0.4, 0.6, 8)
    one, other = {"judge": rate, "unseen": rate}, {"unseen": rate}
    assert _judges([Outcome("ppo", [], one, {}), Outcome("dpo", [], other, {})]) == ["unseen"]
    assert _judges([]) == []
