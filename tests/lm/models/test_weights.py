"""Weights from every source, and the errors for wrong ones."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
)

from tercet.config.lm import LmConfig
from tercet.errors import InputError
from tercet.lm.models.roles import load_policy, load_score_model
from tercet.lm.models.weights import load_causal, load_judge, load_scorer
from tercet.lm.text.tokenizers import byte_tokenizer

MakeConfig = Callable[..., LmConfig]
SftFolder = Callable[[str], Path]


def test_random_weights_depend_only_on_the_seed(make_config: MakeConfig) -> None:
    config = make_config().model
    first, again, other = (load_causal(config, seed=seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize(("architecture", "width"), [("opt", 32), ("opt-350m", 16), ("gpt_neox", 32)])
def test_a_new_head_is_normal_for_its_input_width(make_config: MakeConfig, architecture: str, width: int) -> None:
    config = make_config(architecture).model
    heads = torch.cat([load_scorer(config, seed=seed).score.weight.flatten() for seed in range(1600 // width)])
    heads = heads.detach()
    assert float(heads.std()) == pytest.approx((width + 1) ** -0.5, rel=0.06)  # 3 standard errors
    assert float(heads.mean()) == pytest.approx(0.0, abs=0.03)


def test_a_new_head_is_drawn_for_any_weights_and_a_saved_one_is_kept(
    architecture: str, make_config: MakeConfig, sft_folder: SftFolder, tmp_path: Path
) -> None:
    config, folder = make_config(architecture), str(sft_folder(architecture))
    scorer, policy = load_scorer(config.model, seed=5, path=folder), load_causal(config.model, seed=9, path=folder)
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        ours, theirs = (model.eval().base_model(ids).last_hidden_state for model in (scorer, policy))
    assert torch.equal(ours, theirs)  # the transformer is the folder's
    model = load_score_model(config.model_copy(update={"seed": 5}), path=folder)
    assert torch.equal(model.model.score.weight, scorer.score.weight)
    model.save(tmp_path, byte_tokenizer())
    for seed in (6, 7):
        assert torch.equal(load_scorer(config.model, seed=seed, path=str(tmp_path)).score.weight, scorer.score.weight)


def test_the_first_layers_keep_their_weights(architecture: str, make_config: MakeConfig, sft_folder: SftFolder) -> None:
    config, folder = make_config(architecture), str(sft_folder(architecture))
    whole = load_scorer(config.model, seed=0, path=folder).state_dict()
    part = load_scorer(config.model, seed=0, path=folder, num_layers=1).state_dict()
    assert set(part) < set(whole)
    assert all(torch.equal(part[name], whole[name]) for name in part)


def test_more_layers_than_the_model_has_are_refused(make_config: MakeConfig) -> None:
    with pytest.raises(InputError, match=r"reward\.num_layers: 3, but the model has 2"):
        load_scorer(make_config().model, seed=0, num_layers=3)


def test_dropout_is_off_in_every_config(architecture: str, make_config: MakeConfig, sft_folder: SftFolder) -> None:
    config, folder = make_config(architecture), str(sft_folder(architecture))
    saved = load_causal(config.model, seed=0, path=folder)
    for model in (load_causal(config.model, seed=0), load_scorer(config.model, seed=0), saved):
        rates = {key: value for key, value in model.config.to_dict().items() if "drop" in key}
        assert not any(value for value in rates.values() if isinstance(value, float)), rates
        assert all(module.p == 0 for module in model.modules() if isinstance(module, torch.nn.Dropout))


def test_folders_without_a_model_are_refused(make_config: MakeConfig, sft_folder: SftFolder, tmp_path: Path) -> None:
    config = make_config().model
    with pytest.raises(InputError, match="no such folder"):
        load_causal(config, seed=0, path=str(tmp_path / "nowhere"))
    with pytest.raises(InputError, match="no file"):
        load_causal(config, seed=0, path=str(tmp_path / "model.gguf"))
    with pytest.raises(InputError, match=r"has no model.*config\.json"):
        load_causal(config, seed=0, path=str(tmp_path))
    folder = sft_folder("opt")
    (folder / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"has no model.*safetensors"):
        load_causal(config, seed=0, path=str(folder))
    folder = sft_folder("gpt2")
    (folder / "model.safetensors").write_bytes(b"torn")
    with pytest.raises(InputError, match="has no model"):
        load_causal(config, seed=0, path=str(folder))


def test_folders_with_a_wrong_config_are_refused(make_config: MakeConfig, tmp_path: Path) -> None:
    def refused(message: str, **settings: object) -> None:
        (tmp_path / "config.json").write_text(json.dumps(settings))
        for load in (load_causal, load_scorer):
            with pytest.raises(InputError, match=message):
                load(make_config().model, seed=0, path=str(tmp_path))

    refused("expected int, got str", model_type="llama", hidden_size="x")
    refused("brings Python code of its own", model_type="mine", auto_map={"AutoConfig": "mine.Config"})


def test_weights_in_torchs_own_format_are_read(make_config: MakeConfig, sft_folder: SftFolder) -> None:
    folder = sft_folder("llama")
    before = load_causal(make_config().model, seed=0, path=str(folder)).state_dict()
    (folder / "model.safetensors").unlink()
    torch.save(before, folder / "pytorch_model.bin")
    after = load_causal(make_config().model, seed=1, path=str(folder)).state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_a_classifier_with_two_outputs_is_refused(make_config: MakeConfig, tmp_path: Path) -> None:
    config = AutoConfig.for_model(**make_config("llama").model.architecture, num_labels=2)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path)
    with pytest.raises(InputError, match="has 2 outputs per text; a reward model has one"):
        load_scorer(make_config().model, seed=0, path=str(tmp_path))
    shape = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(shape | {"vocab_size": 299}))
    with pytest.raises(InputError, match=r"embed_tokens.*\[300, 32\], by config.json it is \[299, 32\]"):
        load_scorer(make_config().model, seed=0, path=str(tmp_path))


@pytest.mark.parametrize("key", ["v_head.summary.weight", "value_head.0.weight", "rm_head.weight", "score.2.weight"])
def test_a_score_head_of_another_form_is_named(key: str, make_config: MakeConfig, sft_folder: SftFolder) -> None:
    folder = sft_folder("llama")
    weights = load_file(folder / "model.safetensors")
    save_file(weights | {key: torch.ones(1, 32)}, folder / "model.safetensors", {"format": "pt"})
    for load in (load_scorer, lambda *_, **__: load_judge(str(folder))):
        with pytest.raises(InputError, match=f"has a score head of another form, {re.escape(key)}; .*; rename it"):
            load(make_config().model, seed=0, path=str(folder))


def test_an_encoder_with_a_head_is_refused_as_start_of_a_reward_model(make_config: MakeConfig, tmp_path: Path) -> None:
    shape = {"vocab_size": 40, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    config = AutoConfig.for_model("bert", **shape, num_attention_heads=2, num_labels=1)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"another form, classifier\..*; it can judge as ppo\.reward"):
        load_scorer(make_config().model, seed=0, path=str(tmp_path))


def test_weights_of_another_model_are_refused(make_config: MakeConfig, sft_folder: SftFolder, tmp_path: Path) -> None:
    """transformers draws missing weights at random and only warns."""
    model = load_score_model(make_config("llama"))
    model.save(tmp_path, byte_tokenizer())
    with pytest.raises(InputError, match=r"lacks.*lm_head"):
        load_policy(make_config("llama"), path=str(tmp_path))  # a reward model where a policy is wanted
    gpt2, opt = sft_folder("gpt2"), sft_folder("opt")
    (opt / "model.safetensors").write_bytes((gpt2 / "model.safetensors").read_bytes())
    for load in (load_causal, load_scorer):
        with pytest.raises(InputError, match="lacks"):
            load(make_config("opt").model, seed=0, path=str(opt))
