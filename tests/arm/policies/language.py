"""A tiny pretrained language model in a folder, for policies that read."""

import atexit
import json
import shutil
import tempfile
from functools import cache
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers

from tercet.arm.networks.llama import Llama, LlamaShape

WORDS = ("lift", "the", "red", "blue", "cube", "it", "and", "raise", "now")
SHAPE = LlamaShape(len(WORDS) + 261, 64, 96, 3, 2, 1, rope_theta=1000.0)


@cache
def tiny_model(seed: int = 0) -> str:
    """Return the folder of a model with random weights, whose tokens are words; it lasts as long as the process."""
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    torch.manual_seed(seed)
    save_llama(folder, Llama(SHAPE))
    vocabulary = {"[UNK]": 0} | {word: number + 1 for number, word in enumerate(WORDS)}
    tokenizer = Tokenizer(models.WordLevel(vocab=vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    return str(folder)


def save_llama(folder: Path, model: Llama) -> None:
    """Write config.json and model.safetensors as transformers does."""
    config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "tie_word_embeddings": True}
    (folder / "config.json").write_text(json.dumps(config | vars(model.shape)))
    save_file({f"model.{name}": value for name, value in model.state_dict().items()}, folder / "model.safetensors")
