"""PPO with an engine: a whole run, a server that is killed, and the run that goes on."""

import json
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.lm.engines import stand_in

from tercet.config.lm import LmConfig
from tercet.errors import FailedError
from tercet.lm.engines.choose import FOLDER, _Checked, engine_of_frozen
from tercet.lm.engines.paged import PagedEngine
from tercet.lm.models.roles import load_policy
from tercet.lm.text.encoder import Encoder

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


@pytest.mark.slow
def test_pairs_come_from_a_server_and_responses_of_the_evaluation_from_generate_batch(
    take: Take, small: list[str], toy_questions: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    few = ["reward.num_sampled_pairs=8", "eval.num_prompts=4", "eval.max_response_tokens=2", "reward.max_steps=1"]
    settings = [*small, LLAMA, *few, f"data.train=[{toy_questions}]"]  # without pairs
    run = take("sft", tmp_path / "run", *settings)
    take("reward", run, *settings, "ppo.sampler=vllm", SERVER, "ppo.engine_for=[pairs]")
    assert (run / FOLDER / "vllm.log").exists() and (run / "reward" / "pairs.jsonl").stat().st_size
    take("eval", run, *settings, "ppo.sampler=transformers", "ppo.engine_for=[eval]")
    said = "".join(capfd.readouterr())
    assert "pairs: vllm samples the responses" in said and "eval: transformers samples the responses" in said
    assert "sft_vs_base" in json.loads((run / "results.json").read_text())["win_rate"]


def test_an_engine_of_another_policy_is_found_at_its_first_responses(make_config: Callable[..., LmConfig]) -> None:
    config = make_config("llama", ppo={"sampler": "transformers", "engine_for": ["eval"]})
    policy, other = load_policy(config), load_policy(config.model_copy(update={"seed": 1}))
    settings = {"end_ids": [2], "max_tokens": 4, "temperature": 1.0}
    right, wrong = (_Checked(PagedEngine(one), policy) for one in (policy, other))
    right.generate([[5, 9], [6]], generator=torch.Generator().manual_seed(0), **settings)
    with pytest.raises(FailedError, match=r"PagedEngine.*differ from those of a plain forward"):
        wrong.generate([[5, 9], [6]], generator=torch.Generator().manual_seed(0), **settings)


def test_only_what_the_config_names_comes_from_the_engine(make_config: Callable[..., LmConfig], tmp_path: Path) -> None:
    config = make_config("llama", ppo={"sampler": "transformers", "engine_for": ["eval"]})
    policy, encoder = load_policy(config), Encoder.of(config)
    with engine_of_frozen(config, policy, encoder, tmp_path, "pairs") as pairs:
        assert pairs is None
    with engine_of_frozen(config, policy, encoder, tmp_path, "eval") as responses:
        assert responses is not None
    with pytest.raises(ValueError, match=r"'pairs' is sampled by Tercet with ppo.sampler=own"):
        make_config("llama", ppo={"engine_for": ["pairs"]})
    served = {"sampler": "vllm", "engine_url": "http://127.0.0.1:1", "engine_for": ["pairs"]}
    with pytest.raises(ValueError, match="has the weights under PPO's adapters"):
        make_config("llama", lora={"rank": 4}, ppo=served)
