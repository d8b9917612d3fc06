"""Language models with adapters, or inside a multimodal model."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, PreTrainedModel

from tercet.config.lm import LmConfig
from tercet.errors import InputError
from tercet.lm.batch import TokenBatch
from tercet.lm.models.roles import load_policy, load_score_model
from tercet.lm.models.weights import load_causal, load_scorer
from tercet.lm.plan.shapes import shape_of
from tercet.lm.text.encoder import Encoder
from tercet.lm.text.tokenizers import byte_tokenizer

MakeConfig = Callable[..., LmConfig]
SftFolder = Callable[[str], Path]

IDS = torch.tensor([[5, 9, 7, 30]])
LORA = {"r": 2, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]}


def with_adapters_saved(model: PreTrainedModel, base: Path, folder: Path, **more: object) -> PreTrainedModel:
    """Add adapters that have an effect, and save only these, as peft does."""
    adapted = get_peft_model(model, LoraConfig(**LORA, **more))
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.add_(0.3 * torch.randn_like(parameter))
    adapted.peft_config["default"].base_model_name_or_path = str(base)
    adapted.save_pretrained(folder)
    return adapted.eval()


def test_adapters_are_read_with_their_base(make_config: MakeConfig, sft_folder: SftFolder, tmp_path: Path) -> None:
    base, config = sft_folder("llama"), make_config("llama")
    adapted = with_adapters_saved(AutoModelForCausalLM.from_pretrained(base), base, tmp_path / "adapters")
    config = make_config(model={"path": str(tmp_path / "adapters"), "tokenizer": ""})
    policy = load_policy(config, learns=True)
    with torch.no_grad():
        torch.testing.assert_close(policy.model(IDS).logits, adapted(IDS).logits)
    assert all(parameter.requires_grad for parameter in policy.parameters())
    assert not any("lora" in name for name, _ in policy.named_parameters())
    with torch.no_grad():  # a reward model starts from them too
        ours = load_scorer(config.model, seed=0).eval().base_model(IDS).last_hidden_state
        theirs = adapted.get_base_model().model(IDS).last_hidden_state
    torch.testing.assert_close(ours, theirs)
    assert shape_of(config).hidden_size == 32
    assert Encoder.of(config).tokenizer.get_vocab() == byte_tokenizer().get_vocab()  # the base's


def test_adapters_of_a_reward_model_include_its_head(
    make_config: MakeConfig, batch: TokenBatch, sft_folder: SftFolder, tmp_path: Path
) -> None:
    base, config = sft_folder("llama"), make_config("llama")
    scorer = load_scorer(config.model, seed=3, path=str(base))
    adapted = with_adapters_saved(scorer, base, tmp_path, task_type="SEQ_CLS")
    model = load_score_model(config, path=str(tmp_path), trained=True)
    length = int(batch.lengths[0])
    with torch.no_grad():
        theirs = adapted(input_ids=batch.ids[:1, :length]).logits[0, 0]
        torch.testing.assert_close(model.scores(batch)[0], theirs)
    assert load_score_model(config, path=str(tmp_path), num_layers=1, trained=True).model.config.num_hidden_layers == 1


def test_the_error_for_adapters_that_do_not_fit_says_how_to_merge(
    make_config: MakeConfig, sft_folder: SftFolder, tmp_path: Path
) -> None:
    base = sft_folder("llama")
    with_adapters_saved(AutoModelForCausalLM.from_pretrained(base), base, tmp_path)
    settings = json.loads((tmp_path / "adapter_config.json").read_text())

    def refused(message: str, **changes: object) -> None:
        (tmp_path / "adapter_config.json").write_text(json.dumps(settings | changes))
        with pytest.raises(InputError, match=message):
            load_causal(make_config().model, seed=0, path=str(tmp_path))

    refused("merge_and_unload", base_model_name_or_path=str(sft_folder("gpt2")))
    refused("merge_and_unload", target_modules=["q_proj", "k_proj", "v_proj"])  # of which the file has two
    refused("name no base model", base_model_name_or_path=None)
    refused("no such folder", base_model_name_or_path="./gone/away")


TEXT = {"vocab_size": 300, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "head_dim": 16}
TEXT |= {"num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 48}
VISION = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
SEEING = {
    "gemma3": (TEXT, VISION | {"image_size": 28, "patch_size": 14}),
    "llava": (TEXT | {"model_type": "llama"}, VISION | {"model_type": "clip_vision_model", "image_size": 28}),
}


@pytest.mark.parametrize("kind", SEEING)
def test_the_text_model_of_a_multimodal_model_is_loaded(kind: str, make_config: MakeConfig, tmp_path: Path) -> None:
    torch.manual_seed(0)
    text, vision = SEEING[kind]
    whole = AutoModelForImageTextToText.from_config(
        AutoConfig.for_model(kind, text_config=dict(text), vision_config=vision)
    ).eval()
    whole.save_pretrained(tmp_path / "whole")
    config = make_config(model={"path": str(tmp_path / "whole")})
    policy = load_policy(config)
    with torch.no_grad():
        wanted = whole(IDS).logits
        torch.testing.assert_close(policy.model(IDS).logits, wanted)
        policy.save(tmp_path / "saved", byte_tokenizer(), (2,))
        alone, seen = AutoModelForCausalLM.from_pretrained(tmp_path / "saved", output_loading_info=True)
        torch.testing.assert_close(alone.eval()(IDS).logits, wanted)
    assert not any(seen.values()) and "vision" not in json.dumps(alone.config.to_dict())
    critic = load_score_model(config, num_layers=1)
    assert critic.model.config.num_hidden_layers == 1
    with pytest.raises(InputError, match="the model reads 48"):
        Encoder.of(make_config(data={"max_prompt_tokens": 64})).check_window(policy.model)
