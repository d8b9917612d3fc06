"""A comparison on the arm: what the page says of success, curves and starts that differ."""

from pathlib import Path
from typing import Any

import pytest

from tercet.report.blocks import Figures
from tercet.report.comparison.arm import _curves, _env_steps, _learning, _outcome, _success, _time
from tercet.report.comparison.numbers import Measured, Outcome

CONFIG = {"horizon": 10, "ppo": {"num_envs": 4}, "bc": {"demonstrations": "expert"}}


def run_of(*success: int, name: str = "ppo-0", curve: tuple[float, ...] = (0.0, 1.0), **more: Any) -> Measured:
    rows = [{"success": bool(one), "return": 1.0 + one, "steps": 3 + i} for i, one in enumerate(success)]
    metrics = [{"step": "ppo", "index": i, "ppo/success": value} for i, value in enumerate(curve)]
    metrics[-1]["ppo/validation_score"] = curve[-1]
    return Measured(Path(name), rows, **{"config": CONFIG, "metrics": metrics, **more})


def test_success_is_over_starts_and_steps_are_those_of_successful_episodes() -> None:
    found = _outcome("ppo", [run_of(1, 1, 0, 0), run_of(1, 0, 0, 0)])
    assert found.rates["success"].mean == pytest.approx(0.375)
    assert found.by_seed["success"] == [0.5, 0.25]
    assert (_time(found.runs[0]), _time(run_of(0, 0))) == (3.5, None)
    row = _success([found], is_scratch=False).rows[0]
    assert row[0] == "PPO" and row[2] == "50%, 25%"


def test_curves_are_means_over_the_seeds_by_environment_steps() -> None:
    found = [_outcome("ppo", [run_of(1, curve=(0.0, 0.5, 1.0)), run_of(1, curve=(0.0, 0.3, 0.8))])]
    assert _env_steps(found[0].runs[0]) == 80
    figure = _curves(found, "ppo/success", "title", "caption")
    assert figure is not None and figure.numbers == pytest.approx([0.0, 0.4, 0.9])
    (figures,) = _learning(found)
    assert isinstance(figures, Figures) and [len(one.numbers) for one in figures.figures] == [1, 3]
    assert _learning([_outcome("ppo", [run_of(1, metrics=[])])]) == []


def test_from_scratch_the_page_says_that_seeds_start_apart() -> None:
    scratch = CONFIG | {"bc": {"demonstrations": "none"}}
    start = Outcome.of("start", [run_of(0, config=scratch)], {"success": [[0.0]]})
    table = _success([start], is_scratch=True)
    assert table.rows[0][0] == "before PPO" and "an initial policy of its own" in table.caption
    assert "an initial policy of its own" not in _success([start], is_scratch=False).caption
