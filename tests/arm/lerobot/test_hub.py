"""Hub ids stand for folders wherever a recording is named."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from tercet.arm import bc
from tercet.arm.demonstrations import recordings
from tercet.arm.lerobot.hub import local_folder
from tercet.arm.lerobot.read import open_recording
from tercet.arm.play.environments import EnvFactory
from tercet.cli import app
from tercet.config.load import load_arm_config
from tercet.errors import InputError

WRITTEN_BY_LEROBOT = Path(__file__).parent / "written_by_lerobot"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub, without a network."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return tmp_path


def snapshot(cache: Path, name: str) -> Path:
    """Where the files of a hub id lie."""
    cached = cache / name
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text("0123")
    return cached / "snapshots" / "0123"


def test_a_hub_id_is_read_from_the_cache(cache: Path) -> None:
    shutil.copytree(WRITTEN_BY_LEROBOT / "image", snapshot(cache, "datasets--me--arm"))
    assert len(open_recording(local_folder("me/arm", kind="dataset"))) == 3
    with pytest.raises(InputError, match="me/other: no such folder, and not a hub id that can be read"):
        local_folder("me/other", kind="dataset")
    with pytest.raises(InputError, match="me/arm: no such folder, and not a hub id"):
        local_folder("me/arm", kind="model")


def test_a_path_is_never_asked_of_the_hub(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(cache)
    (cache / "my" / "demos").mkdir(parents=True)
    for path in ("my/demos", "absent/mine.npz", "../other/demos", "demos"):
        assert local_folder(path, kind="dataset") == Path(path)


def test_demonstrations_are_learned_and_shown_by_hub_id(cache: Path, small: list[str]) -> None:
    observations, actions = np.zeros((12, 23)), np.full((12, 5), 0.5)
    observations[:, 0] = np.arange(12)
    recordings.save(snapshot(cache, "datasets--me--lifts"), [observations] * 2, [actions, -actions], env="lift")
    config = load_arm_config("lift", [*small, "bc.demonstrations=me/lifts"])
    with EnvFactory.of(config).open(1) as env:
        demonstrations = bc.load_demonstrations(config, env)
    assert demonstrations.actions[0, 0, 0] == 0.5 and demonstrations.actions[1, 0, 0] == -0.5
    said = CliRunner().invoke(app, ["arm", "data", "me/lifts", "bc.num_demonstrations=2"]).output
    assert "tercet: lift" in " ".join(said.split()), said
