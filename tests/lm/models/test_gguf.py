"""GGUF files are converted once."""

from pathlib import Path

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from tercet.errors import InputError
from tercet.lm.models.gguf import converted
from tercet.lm.text.tokenizers import byte_tokenizer


def test_a_gguf_file_is_converted_again_only_if_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    source, times = tmp_path / "model.gguf", list[str]()
    source.write_bytes(b"GGUF")

    def read() -> PreTrainedTokenizerBase:
        times.append("read")
        return byte_tokenizer()

    first = converted(source, read, what="-tokenizer")
    assert converted(source, read, what="-tokenizer") == first and len(times) == 1
    assert AutoTokenizer.from_pretrained(first).get_vocab() == byte_tokenizer().get_vocab()
    assert converted(source, read) != first  # another thing of the same file
    source.write_bytes(b"GGUF of another model")
    assert converted(source, read, what="-tokenizer") != first and len(times) == 3


def test_the_error_names_a_gguf_file_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "model.gguf").write_bytes(b"GGUF")

    def read() -> PreTrainedTokenizerBase:
        raise KeyError("general.architecture")

    with pytest.raises(InputError, match=r"model\.gguf is not a GGUF file that transformers can read"):
        converted(tmp_path / "model.gguf", read)
    assert not list((tmp_path / "cache").rglob("*config.json"))
