"""Configs of models: made from `model.architecture`, and the context length that they allow."""

from collections.abc import Callable

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from tercet.config.lm import LmConfig
from tercet.errors import InputError
from tercet.lm.models.configs import window_of
from tercet.lm.models.weights import load_causal

MakeConfig = Callable[..., LmConfig]


@pytest.mark.parametrize(
    ("architecture", "message"),
    [
        ({}, "needs model_type"),
        ({"model_type": "no-such-model"}, "no-such-model"),
        ({"model_type": "llama", "hidden_size": "x"}, "hidden_size.*expected int, got str"),
        ({"model_type": "opt", "num_hidden_layers": 10**9}, "1000000000 layers are more than 10000"),
        (
            {"model_type": "opt", "hidden_size": 120_000, "ffn_dim": 120_000},
            "its weights take .* GiB, and this machine",
        ),
        ({"model_type": "opt", "hidden_size": 10**12, "ffn_dim": 10**12}, "model.architecture: "),
        ({"model_type": "opt", "vocab_size": -1}, "model.architecture: "),
        ({"model_type": "llama", "hidden_size": 30, "num_attention_heads": 4}, "30.*not a multiple of.*heads"),
    ],
)
def test_a_wrong_architecture_is_refused(make_config: MakeConfig, architecture: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_causal(make_config(model={"architecture": architecture}).model, seed=0)


def test_the_context_length_is_found_under_several_names() -> None:
    windows = {"llama": "max_position_embeddings", "gpt2": "n_positions", "mpt": "max_seq_len"}
    for kind, name in windows.items():
        assert window_of(AutoConfig.for_model(kind, **{name: 48})) == 48
    assert window_of(AutoConfig.for_model("bloom")) is None  # its positions are distances
    assert window_of(AutoConfig.for_model("roberta", max_position_embeddings=514, pad_token_id=1)) == 512


def test_the_context_length_of_longrope_is_its_original_one() -> None:
    rope = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 4, "long_factor": [4.0] * 4}
    shape = {"vocab_size": 40, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "pad_token_id": 0}
    config = AutoConfig.for_model(
        *("phi3",),
        **shape,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=64,
        original_max_position_embeddings=12,
        rope_parameters=rope,
    )
    assert window_of(config) == 12
    model = AutoModelForCausalLM.from_config(config).eval()
    short = torch.arange(1, 9)
    alone = model(short[None]).logits[0]
    for longest, alike in ((12, True), (13, False)):
        rows = torch.stack([nn.functional.pad(short, (0, longest - 8)), torch.arange(1, longest + 1)])
        assert torch.allclose(model(rows).logits[0, :8], alone, atol=1e-5) == alike
