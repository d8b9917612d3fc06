"""Trackers: TensorBoard, and the error for a missing package."""

from pathlib import Path

import pytest

from tercet.config.lm import LmConfig
from tercet.errors import InputError
from tercet.runs.folder import RunFolder


def test_metrics_are_sent_to_tensorboard(tmp_path: Path) -> None:
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    config = LmConfig.model_validate({"trackers": ["tensorboard"]})
    with RunFolder.open(tmp_path / "run", config, preset="tiny") as folder:
        with folder.step("sft", total=2, shown=[]) as step:
            step.log(0, {"sft/loss": 0.5})
            step.log(1, {"sft/loss": 0.25})
        events = event_accumulator.EventAccumulator(str(folder.path / "tensorboard" / "sft"))
        events.Reload()
        assert [(event.step, event.value) for event in events.Scalars("sft/loss")] == [(0, 0.5), (1, 0.25)]


def _config(**values: object) -> LmConfig:
    return LmConfig.model_validate(values)


def test_a_missing_tracker_is_an_error_with_its_remedy(tmp_path: Path) -> None:
    import importlib.util

    missing = [name for name in ("wandb", "trackio") if importlib.util.find_spec(name) is None]
    if not missing:
        pytest.skip("every tracker is installed")
    with pytest.raises(InputError, match=f"pip install {missing[0]}"):
        RunFolder.open(tmp_path / "run", _config(trackers=missing[:1]), preset="tiny")
    assert not (tmp_path / "run").exists()
