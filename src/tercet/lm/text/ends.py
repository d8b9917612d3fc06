"""The end tokens of a response: one set for training, sampling, evaluation and saved models."""

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
    """`written` is appended to every complete response of the data; each of `ids` ends a sampled response."""

    written: int
    ids: tuple[int, ...]

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase, style: Style, model: str, *, trust: bool = False) -> "Ends":
        """Collect the tokenizer's EOS, the chat template's end of turn, and the EOS ids in the model's files.

        `model` is a folder or hub id, or ''. A listed id that is an ordinary token of the tokenizer belongs to another
        vocabulary and is ignored. `trust` allows the model's own code.
        """
        eos = cast(int, tokenizer.eos_token_id)  # transformers types it as anything; load_tokenizer checked it
        of_template = end_of_turn(tokenizer) if style == "chat" else None
        written = eos if of_template is None else of_template
        listed = {number for number in _listed(model, trust) if number in tokenizer.added_tokens_decoder}
        return cls(written, tuple(sorted({eos, written} | listed)))


def _listed(model: str, trust: bool) -> list[int]:
    """Read the EOS ids of generation_config.json, or of config.json if there is none."""
    if not model or Path(model).is_file():  # of a GGUF file, only its tokenizer's EOS is known
        return []
    if base := adapter_base(model):
        return _listed(base, trust)
    for read in (GenerationConfig.from_pretrained, partial(_text_config, trust=trust)):
        try:
            eos = read(model).eos_token_id
        except (OSError, ValueError, KeyError, AttributeError):  # loading the model reports what is wrong
            continue
        return [eos] if isinstance(eos, int) else [*(eos or [])]
    return []


def _text_config(model: str, *, trust: bool) -> PretrainedConfig:
    return text_config(AutoConfig.from_pretrained(model, trust_remote_code=trust))
