"""A small Llama (Touvron et al. 2023) with the shapes of SmolLM2 and Hugging Face's parameter names.

It is plain torch, because only `lm/` may import transformers. An arm's run then starts without that import. A test
compares it with the Llama of transformers.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

HEAD_SIZE = 64  # as in SmolLM2; a narrower model has one head of its own width

Cache = list[list[Tensor]]  # per layer, keys and values (b, n, s, d) of the earlier positions; empty at the start


@dataclass(frozen=True)
class LlamaShape:
    """Sizes, under Hugging Face's names. Input and output embeddings are shared."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    rope_theta: float = 100000.0
    rms_norm_eps: float = 1e-5

    @property
    def head_size(self) -> int:
        """Return the size of an attention head."""
        return self.hidden_size // self.num_attention_heads


class Llama(nn.Module):
    """A causal decoder over embeddings."""

    def __init__(self, shape: LlamaShape) -> None:
        super().__init__()
        self.shape = shape
        self.embed_tokens = nn.Embedding(shape.vocab_size, shape.hidden_size)
        self.layers = nn.ModuleList([Layer(shape) for _ in range(shape.num_hidden_layers)])
        self.norm = nn.RMSNorm(shape.hidden_size, eps=shape.rms_norm_eps)
        for parameter in self.parameters():
            if parameter.ndim == 2:
                nn.init.normal_(parameter, std=1.0 / 24.0)  # 576 ** -0.5, SmolLM2's initializer_range

    def forward(self, embedded: Float[Tensor, "b s h"], cache: Cache | None = None) -> Float[Tensor, "b s h"]:
        """Return the normalised output of the last layer at each position.

        With a cache that is not empty, `embedded` is the one position that follows the cached ones. Its keys and values
        are added.
        """
        return self.norm(self.unnormalised(embedded, cache))

    def unnormalised(self, embedded: Float[Tensor, "b s h"], cache: Cache | None = None) -> Float[Tensor, "b s h"]:
        """Return the output of the last layer before the last norm, which is the input of a further layer."""
        start = cache[0][0].shape[2] if cache and cache[0] else 0
        rotations = rope(start + embedded.shape[1], self.shape.head_size, self.shape.rope_theta)[:, start:].to(embedded)
        for index, layer in enumerate(self.layers):
            embedded = layer(embedded, rotations, cache[index] if cache else None)
        return embedded

    def empty_cache(self) -> Cache:
        """Return the cache to pass with the first position."""
        return [[] for _ in self.layers]

    def embed(self, ids: Int[Tensor, "b s"]) -> Float[Tensor, "b s h"]:
        """Return the embeddings of tokens."""
        return self.embed_tokens(ids)


class Layer(nn.Module):
    """Attention, then a gated perceptron. RMS norm comes before each."""

    def __init__(self, shape: LlamaShape) -> None:
        super().__init__()
        self.self_attn, self.mlp = Attention(shape), GatedMlp(shape)
        self.input_layernorm = nn.RMSNorm(shape.hidden_size, eps=shape.rms_norm_eps)
        self.post_attention_layernorm = nn.RMSNorm(shape.hidden_size, eps=shape.rms_norm_eps)

    def forward(
        self, x: Float[Tensor, "b s h"], rotations: Float[Tensor, "2 s d"], cache: list[Tensor] | None
    ) -> Float[Tensor, "b s h"]:
        x = x + self.self_attn(self.input_layernorm(x), rotations, cache)
        return x + self.mlp(self.post_attention_layernorm(x))


class Attention(nn.Module):
    """Causal attention in which several query heads share a key head (Ainslie et al. 2023)."""

    def __init__(self, shape: LlamaShape) -> None:
        super().__init__()
        self.head_size, hidden, keys = shape.head_size, shape.hidden_size, shape.num_key_value_heads * shape.head_size
        self.q_proj, self.o_proj = (nn.Linear(hidden, hidden, bias=False) for _ in range(2))
        self.k_proj, self.v_proj = (nn.Linear(hidden, keys, bias=False) for _ in range(2))

    def forward(
        self, x: Float[Tensor, "b s h"], rotations: Float[Tensor, "2 s d"], cache: list[Tensor] | None
    ) -> Float[Tensor, "b s h"]:
        q, k, v = (
            proj(x).unflatten(-1, (-1, self.head_size)).transpose(1, 2)
            for proj in (self.q_proj, self.k_proj, self.v_proj)
        )
        q, k = rotate(q, rotations), rotate(k, rotations)
        if cache:
            k, v = torch.cat([cache[0], k], 2), torch.cat([cache[1], v], 2)
        if cache is not None:
            cache[:] = k, v
        # a single position attends to all cached positions, so it needs no causal mask
        out = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=q.shape[2] > 1, enable_gqa=True)
        return self.o_proj(out.transpose(1, 2).flatten(2))


class GatedMlp(nn.Module):
    """SwiGLU (Shazeer 2020)."""

    def __init__(self, shape: LlamaShape) -> None:
        super().__init__()
        sizes = shape.hidden_size, shape.intermediate_size
        self.gate_proj, self.up_proj = (nn.Linear(*sizes, bias=False) for _ in range(2))
        self.down_proj = nn.Linear(*reversed(sizes), bias=False)

    def forward(self, x: Float[Tensor, "b s h"]) -> Float[Tensor, "b s h"]:
        return self.down_proj(nn.functional.silu(self.gate_proj(x)) * self.up_proj(x))


def rope(num: int, head_size: int, theta: float) -> Float[Tensor, "2 s d"]:
    """Return cosine and sine of the rotary angles of each position (Su et al. 2021), once per half of a head."""
    rates = theta ** -(torch.arange(0, head_size, 2) / head_size)
    angles = (torch.arange(num)[:, None] * rates).repeat(1, 2)
    return torch.stack([angles.cos(), angles.sin()])


def rotate(x: Float[Tensor, "b n s d"], rotations: Float[Tensor, "2 s d"]) -> Float[Tensor, "b n s d"]:
    """Rotate each pair (i, i + d/2) of entries by the angle of its position."""
    first, second = x.chunk(2, -1)
    return x * rotations[0] + torch.cat([-second, first], -1) * rotations[1]
