"""Whatever ends a turn of the model ends an answer."""

import json
from pathlib import Path

import pytest
from transformers import AutoConfig, GenerationConfig

from tercet.lm.text.ends import Ends
from tercet.lm.text.tokenizers import byte_tokenizer

TURNS = "{% for m in messages %}{{ m.content }}<|end|>\n{% endfor %}"


def test_the_tokenizers_eos_alone() -> None:
    assert Ends.of(byte_tokenizer(), "hh", "") == Ends(2, (2,))


def test_a_chat_template_writes_its_own_end_and_the_eos_goes_on_ending() -> None:
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens(["<|end|>"])  # 259; not even special, as with some models
    tokenizer.chat_template = TURNS
    assert Ends.of(tokenizer, "chat", "") == Ends(259, (2, 259))
    assert Ends.of(tokenizer, "plain", "") == Ends(2, (2,))


@pytest.mark.parametrize(("listed", "ids"), [([2, 259], (2, 259)), (259, (2, 259)), (None, (2,)), ([2, 65], (2,))])
def test_what_the_models_files_list_ends_too_unless_it_is_a_word(
    listed: list[int] | int | None, ids: tuple[int, ...], tmp_path: Path
) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens(["<|end|>"])
    AutoConfig.for_model("llama", eos_token_id=0).save_pretrained(tmp_path)
    GenerationConfig(eos_token_id=listed).save_pretrained(tmp_path)
    assert Ends.of(tokenizer, "hh", str(tmp_path)) == Ends(2, ids)


def test_a_model_without_generation_config_lists_its_ends_in_its_config(tmp_path: Path) -> None:
    AutoConfig.for_model("llama", eos_token_id=1).save_pretrained(tmp_path)
    assert Ends.of(byte_tokenizer(), "hh", str(tmp_path)).ids == (1, 2)
    assert Ends.of(byte_tokenizer(), "hh", str(tmp_path / "nothing here")).ids == (2,)


def test_adapters_end_as_their_base_model_does(tmp_path: Path) -> None:
    AutoConfig.for_model("llama", eos_token_id=1).save_pretrained(tmp_path / "base")
    (tmp_path / "adapter").mkdir()
    settings = {"peft_type": "LORA", "base_model_name_or_path": str(tmp_path / "base")}
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(settings))
    assert Ends.of(byte_tokenizer(), "hh", str(tmp_path / "adapter")).ids == (1, 2)


def test_a_model_that_also_sees_ends_as_its_text_model_does(tmp_path: Path) -> None:
    text, vision = {"eos_token_id": 1, "num_hidden_layers": 1}, {"num_hidden_layers": 1}
    AutoConfig.for_model("gemma3", text_config=text, vision_config=vision).save_pretrained(tmp_path)
    assert Ends.of(byte_tokenizer(), "hh", str(tmp_path)).ids == (1, 2)
