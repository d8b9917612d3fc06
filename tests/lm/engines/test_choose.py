"""PPO with an engine: a whole run, a server that is killed, and the run that goes on."""

import json
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.lm.engines import stand_in

from tercet.errors import FailedError
from tercet.lm.engines.choose import FOLDER

Take = Callable[..., Path]
SERVER = f"ppo.engine_command={shlex.join([sys.executable, stand_in.__file__])}"
LLAMA = (
    "model.architecture={model_type: llama, vocab_size: 260, hidden_size: 32, num_hidden_layers: 2, "
    "intermediate_size: 32, num_attention_heads: 2, max_position_embeddings: 128}"
)
LORA = [LLAMA, "lora.rank=4", "ppo.lr=1e-2", "ppo.importance_cap=2"]


def rows(run: Path) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [row for row in found if row["step"] == "ppo" and row["index"] > 0]


def prepared(take: Take, out: Path, settings: list[str]) -> Path:
    for step in ("sft", "reward"):
        take(step, out, *settings)
    return out


@pytest.mark.slow
def test_ppo_with_generate_batch_measures_the_mismatch_and_weights_the_loss(
    take: Take, small: list[str], tmp_path: Path
) -> None:
    settings = [*small, *LORA, "ppo.sampler=transformers"]
    run = take("ppo", prepared(take, tmp_path / "run", settings), *settings)
    assert len(rows(run)) == 3
    for row in rows(run):
        assert 0 < row["ppo/sampler_mismatch"] < 1e-4
        assert row["ppo/importance_weight"] == pytest.approx(1, abs=1e-4)
    assert rows(run)[-1]["ppo/kl"] > 0


@pytest.mark.slow
def test_a_killed_server_is_reported_and_the_same_command_goes_on(
    take: Take, small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = [*small, *LORA, "ppo.sampler=vllm", SERVER, "ppo.checkpoint_every=1"]
    run = prepared(take, tmp_path / "run", settings)
    monkeypatch.setenv("STAND_IN_ENDS_AFTER", str(4 + 4 + 8 + 2))  # self-check, validation, update 1, a part of 2
    with pytest.raises(FailedError, match=r"vLLM has ended: .* Give the same command again to continue from the last"):
        take("ppo", run, *settings)
    assert [row["index"] for row in rows(run)] == [1]
    assert (run / FOLDER / "vllm.log").exists()
    monkeypatch.delenv("STAND_IN_ENDS_AFTER")
    take("ppo", run, *settings)
    assert [row["index"] for row in rows(run)] == [1, 2, 3]
    assert all(0 < row["ppo/sampler_mismatch"] < 1e-4 for row in rows(run))
    assert [path.name for path in (run / FOLDER).iterdir()] == ["vllm.log"]


@pytest.mark.slow
def test_an_engine_that_ignores_adapters_is_found(
    take: Take, small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = [*small, *LORA, "ppo.sampler=vllm", SERVER, "ppo.num_updates=30", "ppo.lr=0.1"]
    run = prepared(take, tmp_path / "run", settings)
    monkeypatch.setenv("STAND_IN_IGNORES_ADAPTERS", "1")
    with pytest.raises(FailedError, match="it does not sample from the current policy"):
        take("ppo", run, *settings)
