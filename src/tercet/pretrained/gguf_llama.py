"""A Llama in a GGUF file, converted to the files that transformers uses: config.json, weights, tokenizer.json."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import GGUFReader, dequantize
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor

from tercet.errors import InputError, first_line
from tercet.pretrained.cache import converted

Fields = Mapping[str, Any]  # Any: what a file states, by its key

_NAMES = {  # of a layer's weights in GGUF and in transformers
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_OUTSIDE = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_SIZES = {
    "hidden_size": "embedding_length",
    "intermediate_size": "feed_forward_length",
    "num_hidden_layers": "block_count",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "rope_theta": "rope.freq_base",
    "rms_norm_eps": "attention.layer_norm_rms_epsilon",
}
_CONTROL = 3  # type of a token that stands for no text


def llama_folder(file: Path) -> Path:
    """Convert the file, once, and return the folder. InputError if it holds no Llama, or is damaged."""

    def write(folder: Path) -> None:
        try:
            reader = GGUFReader(file)
            fields = {name: field.contents() for name, field in reader.fields.items()}
            config = _config(fields)
            weights = {_name(one.name): _weight(one, config) for one in reader.tensors}
            tokenizer = _tokenizer(fields)
        except InputError as error:
            raise InputError(f"{file}: {error}") from error
        except (OSError, ValueError, KeyError, IndexError, NotImplementedError) as error:
            raise InputError(f"{file}: not a GGUF file that can be read ({first_line(error)})") from error
        config |= {"vocab_size": len(weights["model.embed_tokens.weight"])}
        config |= {"tie_word_embeddings": "lm_head.weight" not in weights}
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        tokenizer.save(str(folder / "tokenizer.json"))
        save_file(weights, folder / "model.safetensors")

    return converted(file, write, what="-llama")


def _config(fields: Fields) -> dict[str, Any]:  # Any: JSON
    found = fields["general.architecture"]
    if found != "llama":
        raise InputError(f"holds a model of the architecture {found!r}, not llama")
    sizes = {name: fields[f"llama.{key}"] for name, key in _SIZES.items()}
    return {"model_type": "llama", "architectures": ["LlamaForCausalLM"], **sizes}


def _name(name: str) -> str:
    """Return transformers' name of a weight."""
    stem, _, kind = name.rpartition(".")
    if stem in _OUTSIDE:
        return f"{_OUTSIDE[stem]}.{kind}"
    block, number, layer = stem.split(".", 2)
    if block != "blk" or layer not in _NAMES:
        raise InputError(f"holds an unknown weight {name!r}")
    return f"model.layers.{number}.{_NAMES[layer]}.{kind}"


def _weight(one: Any, config: Mapping[str, Any]) -> Tensor:  # Any: gguf's ReaderTensor; JSON
    values = torch.from_numpy(np.array(dequantize(one.data, one.tensor_type), np.float32))
    heads = {"attn_q": "num_attention_heads", "attn_k": "num_key_value_heads"}.get(one.name.split(".")[-2])
    if heads is None:
        return values
    # llama.cpp rotates neighbouring entries of a head, transformers those of its two halves
    return values.unflatten(0, (config[heads], -1, 2)).transpose(1, 2).flatten(0, 2).contiguous()


def _tokenizer(fields: Fields) -> Tokenizer:
    kind, split = fields["tokenizer.ggml.model"], fields.get("tokenizer.ggml.pre", "default")
    digits = {"smollm": [pre_tokenizers.Digits(individual_digits=True)], "gpt-2": [], "default": []}
    if kind != "gpt2" or split not in digits:
        raise InputError(
            f"holds a tokenizer of the kind {kind!r} ({split}); save model and tokenizer with transformers, and give "
            "the folder"
        )
    tokens, merges = fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.merges"]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[tuple(merge.split(" ")) for merge in merges]))
    bytes_of = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*digits[split], bytes_of])
    tokenizer.decoder = decoders.ByteLevel()
    types = fields["tokenizer.ggml.token_type"]
    special = [token for token, of in zip(tokens, types, strict=True) if of == _CONTROL]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    return tokenizer
