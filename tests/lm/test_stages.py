"""The stages of a run are those that it has; each model is checked when it is loaded, and no other with it."""

import shutil
from pathlib import Path

import pytest

from tercet.config.lm import LmConfig
from tercet.errors import FailedError
from tercet.lm.models.weights import load_causal
from tercet.lm.stages import stages_of
from tercet.runs.folder import RunFolder


def test_a_model_that_was_deleted_keeps_nobody_from_the_others(tmp_path: Path) -> None:
    with RunFolder.open(tmp_path / "run", LmConfig(), preset="tiny") as folder:
        assert [stage.name for stage in stages_of(folder, "", 0)] == ["base"]
        for name in ("sft", "ppo"):
            with folder.step(name, total=1, shown=[]) as step:
                step.save_folder("model", lambda path: (path / "config.json").touch())
                step.finish({})
    shutil.rmtree(tmp_path / "run" / "sft" / "model")
    stages = stages_of(RunFolder.read(tmp_path / "run"), "", 0)
    assert [(stage.name, Path(stage.path).parent.name) for stage in stages] == [
        ("base", ""),
        ("sft", "sft"),
        ("ppo", "ppo"),
    ]
    with pytest.raises(FailedError, match=r"sft/model/config\.json: missing"):
        load_causal(LmConfig().model, seed=0, path=stages[1].path)
