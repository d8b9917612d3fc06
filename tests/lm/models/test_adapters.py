"""Adapters: which layers get them, and what remains of them in bf16."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from tercet.config.lm import LmConfig
from tercet.errors import InputError
from tercet.lm.models.adapters import DTYPES, Precision, round_stochastically
from tercet.lm.models.roles import load_policy, load_score_model
from tercet.lm.models.weights import load_causal
from tercet.lm.text.tokenizers import byte_tokenizer

MakeConfig = Callable[..., LmConfig]


def learning(module: nn.Module) -> set[str]:
    return {name for name, parameter in module.named_parameters() if parameter.requires_grad}


def test_with_lora_only_false_adapters_and_head_are_trained(architecture: str, make_config: MakeConfig) -> None:
    actor = load_policy(make_config(architecture, lora={"rank": 2, "only": False}), learns=True)
    others = {name for name in learning(actor) if "lora_" not in name}
    (head,) = others
    assert "modules_to_save" in head
    embedding = actor.model.get_input_embeddings().weight
    assert not embedding.requires_grad


def test_unknown_target_modules_are_refused_with_the_known_ones(make_config: MakeConfig) -> None:
    with pytest.raises(InputError, match=r"'query'.*fc1.*k_proj"):
        load_policy(make_config(lora={"rank": 2, "target_modules": ["query"]}), learns=True)
    some = load_policy(make_config(lora={"rank": 2, "target_modules": ["q_proj", "v_proj"]}), learns=True)
    assert {name.split(".lora_")[0].rsplit(".", 1)[-1] for name in learning(some)} == {"q_proj", "v_proj"}


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_adapters_on_the_last_layers_only(architecture: str, make_config: MakeConfig) -> None:
    def layers(num: int) -> set[str]:
        lora = {"rank": 2, "num_layers": num}
        policy = load_policy(make_config(architecture=architecture, lora=lora), learns=True)
        names = [name for name, p in policy.named_parameters() if p.requires_grad]
        return {next(part for part in name.split(".") if part.isdigit()) for name in names}

    assert layers(1) == {"1"}
    assert layers(0) == layers(2) == layers(5) == {"0", "1"}


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_small_adapters_survive_merging_into_16_bits(
    precision: Precision, make_config: MakeConfig, tmp_path: Path
) -> None:
    policy = load_policy(make_config("llama", precision=precision, lora={"rank": 2}), learns=True)
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if "lora_B" in name:
                parameter.fill_(1e-5)  # far below the spacing of numbers of the weights' size
    layer = policy.model.model.layers[0].mlp.up_proj
    wanted = layer.base_layer.weight.float() + layer.get_delta_weight("default")
    policy.save(tmp_path, byte_tokenizer(), [2])
    saved = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).model.layers[0].mlp.up_proj.weight
    assert torch.allclose(saved, wanted, rtol=0, atol=1e-9)
    assert not torch.equal(saved, layer.weight.to(DTYPES[precision]).float())


@pytest.mark.parametrize(("architecture", "precision"), [("llama", "bf16"), ("gpt2", "bf16"), ("llama", "fp16")])
def test_merged_adapters_survive_loading_in_16_bits(
    architecture: str, precision: Precision, make_config: MakeConfig, tmp_path: Path
) -> None:
    """The change is a tenth of the spacing of the numbers: rounding to nearest would remove it."""
    config = make_config(architecture, precision=precision, lora={"rank": 2})
    before, digits = products(load_policy(config).model), {"bf16": 8, "fp16": 11}[precision]
    sft, chance = load_causal(config.model, seed=0), torch.Generator().manual_seed(0)
    changes = {
        name: w * (torch.rand(w.shape, generator=chance) - 0.5) / 2 ** (digits + 2) for name, w in before.items()
    }
    sft.load_state_dict({name: before[name] + change for name, change in changes.items()}, strict=False)
    sft.save_pretrained(tmp_path)
    learned = torch.cat([change.flatten() for change in changes.values()])
    roles = {
        "frozen": load_policy(config, path=str(tmp_path)),
        "learning": load_policy(config, path=str(tmp_path), learns=True),
        "score model": load_score_model(config, path=str(tmp_path)),
        "critic": load_score_model(config, path=str(tmp_path), learns=True),
    }
    for name, role in roles.items():
        found = products(role.model)
        loaded = torch.cat([(found[key] - w).flatten() for key, w in before.items()])
        assert float(loaded @ learned / (learned @ learned)) == pytest.approx(1.0, abs=0.2), name


def test_stochastic_rounding_to_fp16_gives_its_values_and_keeps_the_mean(make_config: MakeConfig) -> None:
    model = load_causal(make_config("llama").model, seed=0)
    weight = model.model.layers[0].mlp.up_proj.weight
    with torch.no_grad():
        weight[0] = 3e-7  # between 5 and 6 times the smallest number of fp16
        weight[1] = 1.0 + 2**-12  # a quarter of the spacing above 1
        weight[2] = 0.3125  # a value of fp16
        weight[3, 0] = torch.inf
    round_stochastically(model, 0, "fp16")
    assert torch.equal(weight, weight.half().float())
    assert set((weight[0] * 2**24).tolist()) <= {5.0, 6.0} and set(weight[1].tolist()) <= {1.0, 1.0 + 2**-10}
    assert float(weight[0].mean()) == pytest.approx(3e-7, abs=2e-8)
    assert weight[2].unique().tolist() == [0.3125] and weight[3, 0] == torch.inf
    first = weight.clone()
    round_stochastically(model, 1, "fp16")
    assert torch.equal(weight, first)  # it has values of fp16 already


def products(model: nn.Module) -> dict[str, Tensor]:
    """Return a copy in fp32 of the weights of the layers that are stored in 16 bits, without adapters."""
    named = {name.replace("base_layer.", ""): p for name, p in model.named_parameters() if "lora_" not in name}
    return {name: p.detach().float() for name, p in named.items() if p.dtype != torch.float32 and p.ndim == 2}
