"""The numbers of a comparison: rates with the mean of the seeds, and means of what was measured."""

from pathlib import Path

import pytest

from tercet.core.intervals import wilson
from tercet.errors import FailedError
from tercet.report.comparison import numbers
from tercet.report.comparison.numbers import Measured, Outcome


def run_of(*values: float | None, **results: dict[str, float]) -> Measured:
    return Measured(Path("run"), [{"kl": value} for value in values], results=results)


def test_a_rate_is_over_prompts_each_with_the_mean_of_its_seeds() -> None:
    found = Outcome.of("ppo", [run_of(), run_of()], {"success": [[1.0, 1.0], [1.0, 0.0], [0.0, 0.0]], "none": []})
    assert found.rates == {"success": wilson([1.0, 0.5, 0.0])}
    assert found.by_seed == {"success": [pytest.approx(2 / 3), pytest.approx(1 / 3)]}
    assert found.rate_as_json("success", "states")["num_states"] == 3


def test_means_leave_out_what_was_not_measured() -> None:
    runs = [run_of(1.0, None, 2.0, seconds={"ppo": 2.0}), run_of(None)]
    outcome = Outcome("ppo", runs, {}, {})
    assert outcome.mean(lambda run: run.mean("kl")) == 1.5
    assert outcome.mean(Measured.seconds) == 2.0
    assert outcome.figures(numbers.COST_FIGURES) == {"seconds": 2.0, "num_seeds": 2}


def test_the_cost_of_a_resumed_run_is_that_of_its_largest_part(tmp_path: Path) -> None:
    numbers.add_cost(tmp_path, "ppo-0", {"peak_bytes": 5, "gpu_peak_bytes": 0})
    numbers.add_cost(tmp_path, "ppo-0", {"peak_bytes": 3, "gpu_peak_bytes": 2})
    assert numbers._costs(tmp_path) == {"ppo-0": {"peak_bytes": 5, "gpu_peak_bytes": 2}}


def test_a_damaged_plan_is_named(tmp_path: Path) -> None:
    assert numbers.plan_of(tmp_path) == {}
    (tmp_path / numbers.FILE).write_text('{"tokens": 0}')  # as written before there was one of the arm
    assert numbers.plan_of(tmp_path) == {"domain": "lm", "tokens": 0}
    (tmp_path / numbers.FILE).write_text('{"tokens": ')
    with pytest.raises(FailedError, match=r"compare\.json"):
        numbers.plan_of(tmp_path)
