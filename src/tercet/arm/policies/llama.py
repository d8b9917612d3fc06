"""A small Llama (Touvron et al. 2023) in the shapes of SmolLM2, with Hugging Face's parameter names.

It is written here in plain torch because it reads embedded observations and writes a handful of tokens: transformers
stays in lm/, and starting an arm's run needs no import of it. A test holds it against transformers' own.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

HEAD_SIZE = 64  # of SmolLM2; narrower models have one head of their whole width

Past = list[list[Tensor]]  # of each layer the keys and values (b, n, s, d) of the positions so far; empty at first


@dataclass(frozen=True)
class LlamaShape:
    """Sizes under Hugging Face's names; input and output embeddings are one."""

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
        """Of each attention head."""
        return self.hidden_size // self.num_attention_heads


class Llama(nn.Module):
    """A decoder over embeddings; every position sees itself and those before it."""

    def __init__(self, shape: LlamaShape) -> None:
        super().__init__()
        self.shape = shape
        self.embed_tokens = nn.Embedding(shape.vocab_size, shape.hidden_size)
        self.layers = nn.ModuleList([Layer(shape) for _ in range(shape.num_hidden_layers)])
        self.norm = nn.RMSNorm(shape.hidden_size, eps=shape.rms_norm_eps)
        for parameter in self.parameters():
            if parameter.ndim == 2:
                nn.init.normal_(parameter, std=1.0 / 24.0)  # 576 ** -0.5, SmolLM2's initializer_range

    def forward(self, embedded: Float[Tensor, "b s h"], past: Past | None = None) -> Float[Tensor, "b s h"]:
        """What the last layer makes of each position, normalised.

        With `past` the positions come after those that it holds, one at a time, and are added to it.
        """
        before = past[0][0].shape[2] if past and past[0] else 0
        turns = rotations(before + embedded.shape[1], self.shape.head_size, self.shape.rope_theta)[:, before:]
        for index, layer in enumerate(self.layers):
            embedded = layer(embedded, turns, past[index] if past else None)
        return self.norm(embedded)

    def nothing_past(self) -> Past:
        """What `forward` is given with the first of positions that come one after another."""
        return [[] for _ in self.layers]

    def embed(self, ids: Int[Tensor, "b s"]) -> Float[Tensor, "b s h"]:
        """The embeddings of tokens."""
        return self.embed_tokens(ids)


class Layer(nn.Module):
    """Attention and a gated perceptron, each normalised before."""

    def __init__(self, shape: LlamaShape) -> None:
        super().__init__()
        self.self_attn, self.mlp = Attention(shape), Gated(shape)
        self.input_layernorm = nn.RMSNorm(shape.hidden_size, eps=shape.rms_norm_eps)
        self.post_attention_layernorm = nn.RMSNorm(shape.hidden_size, eps=shape.rms_norm_eps)

    def forward(
        self, x: Float[Tensor, "b s h"], turns: Float[Tensor, "2 s d"], past: list[Tensor] | None
    ) -> Float[Tensor, "b s h"]:
        x = x + self.self_attn(self.input_layernorm(x), turns, past)
        return x + self.mlp(self.post_attention_layernorm(x))


class Attention(nn.Module):
    """Causal attention in which several query heads share a key head (Ainslie et al. 2023)."""

    def __init__(self, shape: LlamaShape) -> None:
        super().__init__()
        self.head_size, hidden, keys = shape.head_size, shape.hidden_size, shape.num_key_value_heads * shape.head_size
        self.q_proj, self.o_proj = (nn.Linear(hidden, hidden, bias=False) for _ in range(2))
        self.k_proj, self.v_proj = (nn.Linear(hidden, keys, bias=False) for _ in range(2))

    def forward(
        self, x: Float[Tensor, "b s h"], turns: Float[Tensor, "2 s d"], past: list[Tensor] | None
    ) -> Float[Tensor, "b s h"]:
        q, k, v = (
            proj(x).unflatten(-1, (-1, self.head_size)).transpose(1, 2)
            for proj in (self.q_proj, self.k_proj, self.v_proj)
        )
        q, k = turned(q, turns), turned(k, turns)
        if past:
            k, v = torch.cat([past[0], k], 2), torch.cat([past[1], v], 2)
        if past is not None:
            past[:] = k, v
        # a single position sees all that there are
        out = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=q.shape[2] > 1, enable_gqa=True)
        return self.o_proj(out.transpose(1, 2).flatten(2))


class Gated(nn.Module):
    """SwiGLU (Shazeer 2020)."""

    def __init__(self, shape: LlamaShape) -> None:
        super().__init__()
        sizes = shape.hidden_size, shape.intermediate_size
        self.gate_proj, self.up_proj = (nn.Linear(*sizes, bias=False) for _ in range(2))
        self.down_proj = nn.Linear(*reversed(sizes), bias=False)

    def forward(self, x: Float[Tensor, "b s h"]) -> Float[Tensor, "b s h"]:
        return self.down_proj(nn.functional.silu(self.gate_proj(x)) * self.up_proj(x))


def rotations(num: int, head_size: int, theta: float) -> Float[Tensor, "2 s d"]:
    """Cosine and sine of each position's angles (Su et al. 2021), twice one after the other."""
    rates = theta ** -(torch.arange(0, head_size, 2) / head_size)
    angles = (torch.arange(num)[:, None] * rates).repeat(1, 2)
    return torch.stack([angles.cos(), angles.sin()])


def turned(x: Float[Tensor, "b n s d"], turns: Float[Tensor, "2 s d"]) -> Float[Tensor, "b n s d"]:
    """Each pair (i, i + d/2) of numbers turned by its position's angle."""
    first, second = x.chunk(2, -1)
    return x * turns[0] + torch.cat([-second, first], -1) * turns[1]
