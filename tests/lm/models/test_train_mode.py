"""A model that draws random numbers in training is refused before it is trained; dropout and noise are turned off."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from tercet.config.lm import LmConfig, ModelConfig
from tercet.errors import InputError
from tercet.lm.models.roles import load_policy, load_score_model
from tercet.lm.models.train_mode import check_train_mode
from tercet.lm.models.weights import load_causal

MakeConfig = Callable[..., LmConfig]
_EXPERTS = {"vocab_size": 300, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2}
_EXPERTS |= {"num_attention_heads": 2, "num_key_value_heads": 1, "num_local_experts": 4, "initializer_range": 0.3}
_EXPERTS |= {"max_position_embeddings": 64, "bos_token_id": 1, "eos_token_id": 2}


def of_experts(make_config: MakeConfig, **shape: str | float) -> LmConfig:
    return make_config("llama", model={"architecture": _EXPERTS | shape})


def test_a_random_router_is_refused_if_it_would_be_trained(make_config: MakeConfig) -> None:
    config = of_experts(make_config, model_type="phimoe")
    before = torch.get_rng_state()
    for load in (load_policy, load_score_model):
        load(config)  # frozen, it is in evaluation mode for ever
        with pytest.raises(InputError, match=r"phimoe computes other numbers in training .*router_jitter_noise=0\.01"):
            load(config, learns=True)
    assert not torch.equal(before, torch.get_rng_state())  # its weights were drawn
    model = load_policy(config).model
    before = torch.get_rng_state()
    with pytest.raises(InputError):
        check_train_mode(model)
    assert torch.equal(before, torch.get_rng_state())


def test_noise_at_the_router_is_refused_with_its_key(make_config: MakeConfig) -> None:
    load_policy(of_experts(make_config, model_type="mixtral"), learns=True)
    with pytest.raises(InputError, match=r"mixtral .*router_jitter_noise=0\.2"):
        load_policy(of_experts(make_config, model_type="mixtral", router_jitter_noise=0.2), learns=True)


def test_nan_in_training_mode_is_refused(make_config: MakeConfig) -> None:
    model = load_policy(make_config("llama")).model

    def spoil(module: torch.nn.Module, _: object, states: torch.Tensor) -> torch.Tensor:
        drawn = torch.rand(()) if module.training else 0.0
        return states * torch.nan if module.training and len(states) > 2 else states + 0.0 * drawn

    model.model.embed_tokens.register_forward_hook(spoil)
    with pytest.raises(InputError, match="difference of nan"):
        check_train_mode(model)


def test_noise_and_dropout_are_turned_off_in_every_part_of_the_config(tmp_path: Path) -> None:
    shape = {"d_model": 32, "n_heads": 2, "n_layers": 2, "vocab_size": 300, "resid_pdrop": 0.5}
    config = AutoConfig.for_model("mpt", attn_config={"attn_pdrop": 1}, **shape)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "mpt")
    experts = AutoConfig.for_model("phimoe", **_EXPERTS, input_jitter_noise=0.5, router_jitter_noise=0.0)
    AutoModelForCausalLM.from_config(experts).save_pretrained(tmp_path / "phimoe")
    for name in ("mpt", "phimoe"):
        check_train_mode(load_causal(ModelConfig(path=str(tmp_path / name)), seed=0))
