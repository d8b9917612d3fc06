"""What ends an answer: a set of tokens, the same in training, sampling, measuring and whatever is saved."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import cast

from transformers import AutoConfig, GenerationConfig, PretrainedConfig, PreTrainedTokenizerBase

from tercet.lm.models.wrapped import adapter_base, text_config
from tercet.lm.text.ids import Style
from tercet.lm.text.template import end_of_turn


@dataclass(frozen=True)
class Ends:
    """`written` stands behind every answer of the data that was not cut; each of `ids` ends a sampled answer."""

    written: int
    ids: tuple[int, ...]

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase, style: Style, model: str, *, trust: bool = False) -> "Ends":
        """The tokenizer's EOS, what the chat template writes behind an answer, and what the files of a model list.

        `model` is its folder or hub id, '' where there is none. A listed id that the tokenizer knows as a word is
        another vocabulary's, and ends nothing. `trust` allows code of its own.
        """
        eos = cast(int, tokenizer.eos_token_id)  # transformers types it as anything; load_tokenizer checked it
        of_template = end_of_turn(tokenizer) if style == "chat" else None
        written = eos if of_template is None else of_template
        listed = {number for number in _listed(model, trust) if number in tokenizer.added_tokens_decoder}
        return cls(written, tuple(sorted({eos, written} | listed)))


def _listed(model: str, trust: bool) -> list[int]:
    """The EOS ids of generation_config.json, or of config.json where there is none."""
    if not model or Path(model).is_file():  # a GGUF file has its tokenizer's EOS alone
        return []
    if base := adapter_base(model):
        return _listed(base, trust)
    for read in (GenerationConfig.from_pretrained, partial(_text_config, trust=trust)):
        try:
            found = read(model).eos_token_id
        except (OSError, ValueError, KeyError, AttributeError):  # whoever loads the model says what is wrong with it
            continue
        return [found] if isinstance(found, int) else [*(found or [])]
    return []


def _text_config(model: str, *, trust: bool) -> PretrainedConfig:
    return text_config(AutoConfig.from_pretrained(model, trust_remote_code=trust))
