"""Counts without weights equal those of loaded models."""

from math import ceil
from typing import Any

import pytest
import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks
from transformers import LlamaConfig, LlamaForCausalLM

from tercet.lm.cpu.packed import _layers, folded
from tercet.lm.models.configs import config_at
from tercet.lm.models.logprobs import CHUNK
from tercet.lm.models.roles import load_policy, load_score_model
from tercet.lm.plan.footprint import Footprint, activations, footprint, logits_bytes


def really_saved(module: nn.Module, rows: int, length: int) -> int:
    own = {p.untyped_storage().data_ptr() for p in [*module.parameters(), *module.buffers()]}
    kept, held = {}, []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        held.append(tensor)
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        states = module.train().model.base_model(torch.full((rows, length), 5), use_cache=False).last_hidden_state
        module.head(states)
    return sum(kept.values())


@pytest.mark.parametrize("rank", [0, 4])
def test_counted_parameters_equal_those_of_a_loaded_model(make_config, architecture: str, rank: int):
    config = make_config(architecture, lora={"rank": rank})
    shape = config_at(config.model)
    for kind, load in (("policy", load_policy), ("score", load_score_model)):
        module = load(config, learns=True)
        found = footprint(config, shape, kind, learns=True)
        parameters = list(module.parameters())
        assert found.stored == sum(p.numel() * p.element_size() for p in parameters)
        assert found.learning == 4 * sum(p.numel() for p in parameters if p.requires_grad)
        assert found.adapters == 4 * sum(p.numel() for n, p in module.named_parameters() if "lora_" in n)
        assert found.packed == 4 * sum(folded(layer)[0].numel() for layer in _layers(module.model))


def test_fewer_layers_and_bf16_are_counted_as_stored(make_config):
    config = make_config("opt", precision="bf16")
    module = load_score_model(config, num_layers=1)
    found = footprint(config, config_at(config.model), "score", num_layers=1)
    assert found.stored == sum(p.numel() * p.element_size() for p in module.parameters())
    assert (found.network.num_layers, found.learning) == (1, 0)


@pytest.mark.parametrize("settings", [{}, {"lora": {"rank": 4}}, {"model": {"gradient_checkpointing": True}}])
def test_activations_equal_those_that_a_real_forward_saves(make_config, settings: dict[str, dict[str, int]]):
    config = make_config("opt", **settings)
    found = activations(config, config_at(config.model), "policy", rows=3, length=20)
    assert found.saved == pytest.approx(really_saved(load_policy(config, learns=True), 3, 20), rel=0.01)
    assert found.one_layer > 0


def test_activations_grow_with_layers_and_shrink_with_recomputing(make_config):
    plain, saving = make_config("llama"), make_config("llama", model={"gradient_checkpointing": True})
    shape = config_at(plain.model)
    two, five = (activations(plain, shape, "score", num_layers=n, rows=2, length=16) for n in (2, 5))
    assert five.saved - two.saved == 3 * two.one_layer
    assert activations(saving, shape, "score", rows=2, length=16).saved < two.saved


def test_logits_are_counted_for_one_chunk_at_most(make_config):
    shape = config_at(make_config("opt").model)
    assert logits_bytes(shape, 10) == 10 * 300 * 12
    assert logits_bytes(shape, 5 * CHUNK) == CHUNK * 300 * 12


def test_moments_in_8_bits_and_a_backbone_in_4(make_config):
    wide = {"hidden_size": 128, "intermediate_size": 256, "num_key_value_heads": 2, "head_dim": 64}
    shape = {"model_type": "llama", "vocab_size": 300, "num_hidden_layers": 2, "num_attention_heads": 2, **wide}
    lora = {"rank": 4, "shared_backbone": True}

    def counted(**sections: Any) -> Footprint:  # Any: what LmConfig checks
        config = make_config("llama", model={"path": "random", "architecture": shape}, **sections)
        hf_config = config_at(config.model)
        return footprint(config, hf_config, "policy", learns=True, is_backbone=True)

    plain, in_8 = counted(), counted(optimizer="adamw8bit")
    assert plain.moments == 2 * plain.learning
    model = LlamaForCausalLM(LlamaConfig(**shape, tie_word_embeddings=False))
    sizes = [p.numel() for p in model.parameters()]
    assert in_8.moments == sum(8 * num if num < 4096 else 2 * num + 8 * -(-num // 256) for num in sizes)
    half, packed = counted(lora=lora, precision="bf16"), counted(lora=lora | {"backbone": "nf4"}, precision="bf16")
    layers = [p.numel() for name, p in model.named_parameters() if "_proj" in name]
    assert half.stored - packed.stored == 2 * sum(layers) - sum(
        ceil(num * (0.5 + 1 / 64 + 4 / 64 / 256)) for num in layers
    )
    assert (half.restored, packed.restored) == (0, 2 * 128 * 256)
