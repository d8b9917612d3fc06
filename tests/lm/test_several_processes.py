"""All steps on several processes: the numbers are those of one process, whatever the number of processes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.on_ranks import on_ranks

from tercet.config.load import load_lm_config
from tercet.lm.pipeline import needed, steps_of
from tercet.lm.quiet import hush
from tercet.runs.folder import RunFolder
from tercet.runs.progress import silent

# batches that no number of processes divides, pairs that are sampled, an average, an adaptive price, a mix of SFT
UNEVEN = [
    *("sft.batch_size=7", "reward.batch_size=5", "reward.num_sampled_pairs=24", "reward.group_pairs=true"),
    *("ppo.batch_size=7", "ppo.num_minibatches=3", "ppo.epochs=2", "ppo.samples_per_eval_prompt=2"),
    *("ppo.ema_decay=0.5", "ppo.kl_target=0.5", "ppo.kl_horizon=50", "ppo.ptx_coef=0.5", "ppo.eval_every=1"),
    "ppo.reward={reward_model: 1.0, 'tercet.lm.preferences.judge:polite_and_to_the_point': 0.5}",
    "eval.unseen_judges=[base_model]",
]
Compare = Callable[[Path, Path], None]


def _run(folder: Path, overrides: list[str], last: str = "eval") -> None:
    hush()
    config = load_lm_config("tiny", overrides)
    with silent(), RunFolder.open(folder, config, preset="tiny") as run:
        for name in needed(config):
            steps_of(0)[name](run, config)
            if name == last:
                return


def _rows(folder: Path, name: str = "metrics") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]


def _check_alike(folder: Path, other: Path) -> None:
    """The same rows and results but for rounding, and the same texts."""
    for rows, others in ((_rows(folder), _rows(other)), (_rows(folder, "samples"), _rows(other, "samples"))):
        assert len(rows) == len(others)
        for row, theirs in zip(rows, others, strict=True):
            assert _alike(row, theirs), (row, theirs)
    results, of_other = (json.loads((path / "results.json").read_text()) for path in (folder, other))
    for name in ("win_rate", "mean_score", "best_checkpoint", "accuracy", "normalised", "kl_to_reference"):
        found = [tree.get(name, tree.get("reward_model", {}).get(name)) for tree in (results, of_other)]
        assert found[0] is not None, name
        assert _alike(*found), (name, *found)


def _alike(one: Any, other: Any) -> bool:  # Any: JSON
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_alike(value, other[key]) for key, value in one.items())
    if isinstance(one, float):
        return one == pytest.approx(other, rel=1e-5, abs=1e-5)
    return one == other


@pytest.fixture(scope="module")
def one(small: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of one process."""
    folder = tmp_path_factory.mktemp("runs") / "one"
    _run(folder, [*small, *UNEVEN])
    return folder


@pytest.mark.parametrize("total", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_several_processes_give_the_numbers_of_one(total: int, one: Path, small: list[str], tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("first", "again")]
    for folder in folders[: 2 if total == 2 else 1]:
        on_ranks(total, _run, folder, [*small, *UNEVEN])
        _check_alike(folder, one)
    if total == 2:  # the same number of processes gives the same bits
        assert _rows(folders[0]) == _rows(folders[1])
        for model in ("sft", "reward", "ppo"):
            first, again = (folder / model / "model" / "model.safetensors" for folder in folders)
            assert first.read_bytes() == again.read_bytes()
