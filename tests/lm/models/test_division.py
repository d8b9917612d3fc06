"""Divided policies and score models compute what whole ones do; whole copies of them sample and are saved."""

import gc
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.on_ranks import on_ranks
from torch import Tensor

from tercet.config.lm import LmConfig
from tercet.lm.batch import TokenBatch
from tercet.lm.models.division import to_save, whole_network
from tercet.lm.models.logprobs import response_logprobs
from tercet.lm.models.roles import load_policy, load_score_model
from tercet.lm.sampling.generate import generate
from tercet.lm.text.tokenizers import byte_tokenizer
from tercet.runs.ranks import rank, shards
from tercet.train.parallel import combined, own_batches, sum_gradients
from tercet.train.sharding import is_divided, whole

CONFIGS: dict[str, dict[str, Any]] = {  # Any: what LmConfig checks
    "all weights": {},
    "adapters": {"lora": {"rank": 4}, "model": {"gradient_checkpointing": True}},
    "all weights in bf16": {"precision": "bf16"},
    "all weights in fp16": {"precision": "fp16"},
    "adapters in bf16": {"lora": {"rank": 4, "only": False}, "precision": "bf16"},
}


def _computed(config: LmConfig, batch: TokenBatch, folder: Path) -> dict[str, Tensor]:
    """Return outputs and gradients of a policy and a score model, and responses; rank 0 saves both models."""
    policy, scorer = load_policy(config, learns=True), load_score_model(config, learns=True)
    assert shards() == any(map(is_divided, policy.parameters())) == any(map(is_divided, scorer.parameters()))
    found = {"logprobs": torch.zeros(batch.response_mask.shape), "values": torch.zeros(batch.ids.shape)}
    for rows in own_batches(batch.lengths.tolist(), 3):  # a micro-batch on one of the ranks, and an empty one
        part = batch.rows(rows)
        logprobs, values = response_logprobs(policy, part, temperature=1.0).logprobs, scorer(part)
        found["logprobs"][rows] = logprobs.detach()
        found["values"][rows, : values.shape[1]] = values.detach() * part.attention_mask
        (logprobs.sum() + (values * part.attention_mask).sum()).backward()
    found = {name: combined(value) for name, value in found.items()}
    for network in (policy, scorer):
        sum_gradients(network.parameters())
        for name, parameter in network.named_parameters():
            if parameter.grad is not None:
                found[f"{type(network).__name__.removeprefix('FSDP')} {name}"] = whole(parameter.grad)
    sampled = whole_network(policy).eval()
    assert not any(map(is_divided, sampled.parameters()))
    with sampled.autocast():
        drawn = generate(
            sampled.model,
            batch.sequences,
            end_ids=[2],
            max_tokens=4,
            temperature=1.0,
            generator=torch.Generator().manual_seed(0),
        )
    found["responses"] = drawn.ids
    copy, _ = weakref.ref(sampled), gc.disable()
    del sampled
    assert not shards() or copy() is None  # its memory is free again at once
    for name, network in (("policy", policy), ("scorer", scorer)):
        saved = to_save(network)
        if rank() == 0:
            saved.save(folder / name, byte_tokenizer(), [2])
    return {name: value.detach().clone() for name, value in found.items()}


SLOW = [("opt", name) for name in list(CONFIGS)[1:]]
SLOW += [(name, "all weights") for name in ("opt-350m", "gpt2", "llama", "qwen2", "qwen3", "bloom", "gpt_neox")]


@pytest.mark.parametrize(
    ("architecture", "name"),
    [("opt", "all weights"), *(pytest.param(*case, marks=pytest.mark.slow) for case in SLOW)],
)
def test_divided_networks_compute_and_save_what_whole_ones_do(
    architecture: str, name: str, make_config: Callable[..., LmConfig], batch: TokenBatch, tmp_path: Path
) -> None:
    config, few = make_config(architecture, **CONFIGS[name]), batch.rows(torch.tensor([0, 3]))
    tolerance = 0.02 if "16" in name else 1e-5
    (one,) = on_ranks(1, _computed, config, few, tmp_path / "one")
    for found in on_ranks(3, _computed, config, few, tmp_path / "three", shard=True):
        assert found.keys() == one.keys()
        for key, value in one.items():
            scale = max(1.0, float(value.abs().max())) if key != "responses" else 0.0
            assert (found[key] - value).abs().max() <= tolerance * scale, key
    files = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").glob("*/*"))
    assert {file.name for file in files} >= {"model.safetensors", "config.json"}
    for file in files:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "three" / file).read_bytes(), file
