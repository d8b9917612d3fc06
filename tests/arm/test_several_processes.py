"""All steps of the arm on several processes: the numbers are those of one process."""

import json
from pathlib import Path
from typing import Any

import pytest
from tests.arm.line import A_LINE
from tests.on_ranks import on_ranks

from tercet.arm.pipeline import STEPS, needed
from tercet.config.load import load_arm_config
from tercet.runs.folder import RunFolder
from tercet.runs.progress import silent

# the built-in arm with rounds; and 16 copies of another environment, which play 20 rows in two turns
BUILT_IN = ["reward.num_rounds=1", "reward.round_every=2", "reward.pairs_per_round=6", "ppo.num_minibatches=3"]
FOREIGN = [
    *("env=a_line:Line", "bc.demonstrations=none", "ppo.reward={reward_model: 1.0, dense: 0.5}"),
    *("ppo.num_envs=20", "ppo.num_eval_states=20", "eval.num_states=35"),
]


def _run(folder: Path, overrides: list[str]) -> None:
    config = load_arm_config("reach-learned", overrides)
    with silent(), RunFolder.open(folder, config, preset="reach-learned") as run:
        for name in needed(config):
            STEPS[name](run, config)


def _rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("total", "overrides"),
    [(2, BUILT_IN), (3, FOREIGN), (4, BUILT_IN), (4, FOREIGN)],
    ids=["built-in", "another environment", "built-in, 4 ranks", "another environment, 4 ranks"],
)
def test_several_processes_give_the_numbers_of_one(
    total: int, overrides: list[str], small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a_line.py").write_text(A_LINE)
    monkeypatch.chdir(tmp_path)
    settings = [*small, *overrides]
    _run(tmp_path / "one", settings)
    for name in ("several", "again"):
        on_ranks(total, _run, tmp_path / name, settings)
    one, several = _rows(tmp_path / "one"), _rows(tmp_path / "several")
    assert len(one) == len(several)
    for row, theirs in zip(one, several, strict=True):
        assert row.keys() == theirs.keys()
        for name, value in row.items():
            assert theirs[name] == (pytest.approx(value, rel=1e-5, abs=1e-5) if name != "step" else value), (row, name)
    assert several == _rows(tmp_path / "again")
    starts = [json.loads((tmp_path / name / "eval" / "starts.json").read_text()) for name in ("one", "several")]
    assert [[start[stage]["success"] for stage in start] for start in starts[0]] == [
        [start[stage]["success"] for stage in start] for start in starts[1]
    ]
