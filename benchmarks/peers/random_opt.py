"""OPT with random weights for the peers, with the shapes of `work.py`; does not import Tercet."""

import argparse

import torch
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import OPTConfig, OPTForCausalLM, OPTForSequenceClassification, PreTrainedTokenizerFast
from work import EOS, FIRST_WORD, Shape, critic_shape, make_eos_likely, shape

PAD = 1


def config_of(named: Shape, **more: int) -> OPTConfig:
    """Return the architecture, without dropout."""
    given = {key: value for key, value in named.items() if key != "model_type"}
    return OPTConfig(**given, dropout=0.0, pad_token_id=PAD, bos_token_id=EOS, eos_token_id=EOS, **more)


def causal(settings: argparse.Namespace, seed: int = 0) -> OPTForCausalLM:
    """Return a language model; with real lengths its answers end as those of Tercet's do."""
    torch.manual_seed(seed)
    model = OPTForCausalLM(config_of(shape(settings)))
    if settings.lengths == "real":
        make_eos_likely(model, settings.response)
    return model.to(settings.device, _dtype(settings))


def scorer(settings: argparse.Namespace, seed: int = 1) -> OPTForSequenceClassification:
    """Return a transformer with one number per token: critic or reward model."""
    torch.manual_seed(seed)
    model = OPTForSequenceClassification(config_of(critic_shape(settings), num_labels=1))
    return model.to(settings.device, _dtype(settings))


def _dtype(settings: argparse.Namespace) -> torch.dtype:
    return torch.bfloat16 if settings.precision == "bf16" else torch.float32


def tokenizer(settings: argparse.Namespace) -> PreTrainedTokenizerFast:
    """Return a tokenizer with a word for every id; the trainers require one, although they get ids."""
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    words = {word: number for number, word in enumerate(special)}
    words |= {f"word{number}": number for number in range(FIRST_WORD, settings.vocab)}
    plain = Tokenizer(WordLevel(words, unk_token="<unk>"))
    plain.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=plain,
        bos_token="<s>",
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        padding_side="left",
    )
