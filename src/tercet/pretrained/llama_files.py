"""Parts of a Llama that transformers or `gguf_llama` saved: its sizes, its first layers, rows of its embeddings."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from tokenizers import Tokenizer
from torch import Tensor

from tercet import strict_json
from tercet.errors import InputError, first_line

_SIZES = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
_EMBEDDING, _NORM = "model.embed_tokens.weight", "model.norm.weight"


@dataclass(frozen=True)
class LlamaFiles:
    """The files of a model in one folder. InputError names what is missing or not a plain Llama."""

    folder: Path

    @cached_property
    def sizes(self) -> dict[str, int | float]:
        """The numbers of config.json that give the shape, under transformers' names."""
        tree = strict_json.read_object(self.folder / "config.json", "give the folder of a Llama")
        if tree.get("model_type") != "llama" or tree.get("attention_bias") or tree.get("rope_scaling"):
            raise InputError(f"{self.folder}: holds no plain Llama; SmolLM2 is one")
        sizes = {name: tree.get(name) for name in _SIZES}
        sizes["num_key_value_heads"] = tree.get("num_key_value_heads") or sizes["num_attention_heads"]
        rope = tree.get("rope_parameters") or {}  # as newer versions of transformers write it
        sizes["rope_theta"] = tree.get("rope_theta") or rope.get("rope_theta") or 10000.0
        sizes["rms_norm_eps"] = tree.get("rms_norm_eps") or 1e-6
        found = {name: size for name, size in sizes.items() if isinstance(size, int | float) and size > 0}
        if missing := sorted(sizes.keys() - found.keys()):
            raise InputError(f"{self.folder / 'config.json'}: must hold {', '.join(missing)} as numbers above 0")
        return found

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer of tokenizer.json."""
        try:
            return Tokenizer.from_file(str(self.folder / "tokenizer.json"))
        except Exception as error:  # the library raises plain Exception
            raise InputError(f"{self.folder / 'tokenizer.json'}: cannot be read ({first_line(error)})") from error

    def layers(self, num: int) -> dict[str, Tensor]:
        """Return the weights of the first `num` layers and of the last norm in fp32, by the names inside of `model`."""
        if num > self.sizes["num_hidden_layers"]:
            raise InputError(f"{self.folder}: has {self.sizes['num_hidden_layers']} layers, fewer than {num}")
        with self._open() as weights:
            inside = (f"model.layers.{number}." for number in range(num))
            held = weights.keys()
            names = [_NORM, *(name for start in inside for name in held if name.startswith(start))]
            return {name.removeprefix("model."): weights.get_tensor(name).float() for name in names}

    def embeddings(self, ids: Sequence[int]) -> Float[Tensor, "n h"]:
        """Return the rows of the embedding matrix of these tokens, in fp32."""
        with self._open() as weights:
            rows = weights.get_slice(_EMBEDDING)
            return torch.cat([rows[number : number + 1] for number in ids]).float()

    def last_embeddings(self, num: int) -> Float[Tensor, "n h"]:
        """Return the rows of the last `num` tokens, in fp32."""
        with self._open() as weights:
            return weights.get_slice(_EMBEDDING)[int(self.sizes["vocab_size"]) - num :].float()

    @contextmanager
    def _open(self) -> Iterator[Any]:  # Any: safetensors gives no type
        file = self.folder / "model.safetensors"
        try:
            with safe_open(file, framework="pt") as weights:
                yield weights
        except (OSError, SafetensorError, KeyError) as error:
            raise InputError(f"{file}: not the weights of a Llama in one file ({first_line(error)})") from error


def digest_of(weights: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of these weights, their names and shapes."""
    digest = hashlib.sha256()
    for name, value in sorted(weights.items()):
        digest.update(json.dumps([name, list(value.shape)]).encode())
        digest.update(value.contiguous().numpy().tobytes())
    return digest.hexdigest()
