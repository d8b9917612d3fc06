"""What the pages of all comparisons say: what each run was set to, and that a run was never trained."""

from pathlib import Path
from typing import Any

from tercet.report.blocks import Prose
from tercet.report.comparison.numbers import Measured, Outcome
from tercet.report.comparison.tables import costs, count, never_trained, not_tuned, seeds, settings


def outcome(algorithm: str, *, updates: int = 2, **ppo: Any) -> Outcome:
    metrics = [{"step": "ppo", "index": i} for i in range(updates + 1)]
    run = Measured(Path(f"{algorithm}-0"), [], config={"ppo": ppo}, metrics=metrics, cost={"peak_bytes": 2**30})
    return Outcome(algorithm, [run], {}, {})


def test_a_run_that_ended_in_the_warm_up_of_its_critic_is_named() -> None:
    few, many = (outcome("ppo", updates=updates, critic_warmup_updates=2) for updates in (2, 3))
    (line,) = never_trained([few, outcome("rloo", critic_warmup_updates=2)])
    assert isinstance(line, Prose) and line.text.startswith("Never trained: ppo-0; the budget ended")
    assert never_trained([many]) == []


def test_the_page_says_for_which_algorithm_the_settings_were_made() -> None:
    start = Measured(Path("start"), [], config={"ppo": {"algorithm": "rloo"}})
    assert not_tuned(start).endswith("the settings of the preset, which was made for RLOO.")


def test_settings_are_those_of_the_runs_and_not_of_the_algorithm() -> None:
    table = settings([outcome("rloo", group_size=4, mean_over="responses"), outcome("dpo")])
    assert [row[0] for row in table.rows] == ["RLOO"]
    assert dict(zip(table.head, table.rows[0], strict=True))["group_size"] == "4"


def test_costs_have_a_column_for_the_gpu_only_if_there_was_one() -> None:
    found = [outcome("ppo"), Outcome("best-of-2", [Measured(Path("best-of-2-0"), [])], {}, {})]
    table = costs(found, "caption", ("steps", lambda one: count(1000.0)))
    assert table.head == ["", "steps", "updates", "time", "peak GiB"]
    assert table.rows == [["PPO", "1,000", "2", "–", "1.00"], ["Best-of-2", "1,000", "–", "–", "–"]]


def test_seeds_are_counted() -> None:
    one = outcome("ppo")
    two = Outcome("rloo", [*one.runs, *one.runs], {}, {})
    assert (seeds([one]), seeds([two]), seeds([one, two])) == (
        "1 seed of each",
        "2 seeds of each",
        "1 to 2 seeds of each",
    )
