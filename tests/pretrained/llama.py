"""A small Llama in a GGUF file, as llama.cpp writes it."""

from pathlib import Path

import numpy as np
from gguf import GGUFWriter
from tokenizers import pre_tokenizers

SIZES = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4}
NUM_KEY_HEADS = 2
MERGES = ["r e", "re d", "Ġ red", "c u", "cu b"]


def write_gguf(file: Path, *, architecture: str = "llama", split: str = "smollm", seed: int = 0) -> None:
    """Write a model with random weights and a byte tokenizer with a few merges."""
    chance, width = np.random.default_rng(seed), SIZES["hidden_size"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = ["<|endoftext|>", *alphabet, *(merge.replace(" ", "") for merge in MERGES)]
    writer = GGUFWriter(file, architecture)
    writer.add_embedding_length(width)
    writer.add_block_count(SIZES["num_hidden_layers"])
    writer.add_feed_forward_length(SIZES["intermediate_size"])
    writer.add_head_count(SIZES["num_attention_heads"])
    writer.add_head_count_kv(NUM_KEY_HEADS)
    writer.add_context_length(64)
    writer.add_vocab_size(len(tokens))
    writer.add_rope_freq_base(1000.0)
    writer.add_layer_norm_rms_eps(1e-4)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(split)
    writer.add_token_list(tokens)
    writer.add_token_types([3, *[1] * (len(tokens) - 1)])
    writer.add_token_merges(MERGES)
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    keys = width // SIZES["num_attention_heads"] * NUM_KEY_HEADS
    shapes = {"attn_q": (width, width), "attn_k": (keys, width), "attn_v": (keys, width), "attn_output": (width, width)}
    shapes |= {"ffn_gate": (SIZES["intermediate_size"], width), "ffn_up": (SIZES["intermediate_size"], width)}
    shapes |= {"ffn_down": (width, SIZES["intermediate_size"]), "attn_norm": (width,), "ffn_norm": (width,)}
    weights = {"token_embd": (len(tokens), width), "output_norm": (width,)}
    for number in range(SIZES["num_hidden_layers"]):
        weights |= {f"blk.{number}.{name}": shape for name, shape in shapes.items()}
    for name, shape in weights.items():
        writer.add_tensor(f"{name}.weight", chance.standard_normal(shape).astype(np.float32) * 0.3)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
