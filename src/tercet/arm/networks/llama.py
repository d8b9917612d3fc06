"""A small Llama (Touvron et al. 2023) with the shapes of SmolLM2 and Hugging Face's parameter names.

It is plain torch, because only `lm/` may import transformers. An arm's run then starts without that import. A test
compares it with the Llama of transformers.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

HEAD_SIZE = 64  # as in SmolLM2; a narrower model has one head of its own width


@dataclass(frozen=True)
class Prefix:
    """Keys and values of the same first positions for several rows, of which the first `lengths` count in each row."""

    layers: tuple[tuple[Float[Tensor, "b n p d"], Float[Tensor, "b n p d"]], ...]
    lengths: Int[Tensor, " b"]

    def rows(self, which: Int[Tensor, " m"]) -> "Prefix":
        """Select rows, also several times the same one."""
        return Prefix(tuple((keys[which], values[which]) for keys, values in self.layers), self.lengths[which])


class Cache:
    """Keys and values of the earlier positions, per layer: those of a prefix, if any, and what was computed since."""

    def __init__(self, num_layers: int, prefix: Prefix | None = None) -> None:
        self.layers: list[list[Tensor]] = (
            [list(pair) for pair in prefix.layers] if prefix else [[] for _ in range(num_layers)]
        )
        self._lengths = None if prefix is None else prefix.lengths
        self._num_first = self._num_held()

    def _num_held(self) -> int:
        return self.layers[0][0].shape[2] if self.layers[0] else 0

    def positions(self, num: int) -> Int[Tensor, "b s"]:
        """Return the positions of the next `num` tokens, in each row or, without a prefix, once for all rows."""
        following = torch.arange(num) + self._num_held() - self._num_first
        return following[None] if self._lengths is None else self._lengths[:, None] + following.to(self._lengths)

    def mask(self, num: int) -> Bool[Tensor, "b 1 s k"] | None:
        """Return which positions each of the next `num` tokens attends to; None if no position must be left out.

        Of several first tokens without a prefix, each leaves out the later ones; that needs no mask either.
        """
        held = self._num_held()
        if self._lengths is None and (num == 1 or not held):
            return None
        since = torch.ones(num, held - self._num_first + num, dtype=torch.bool).tril(held - self._num_first)
        if self._lengths is None:
            return since[None, None]
        inside = torch.arange(self._num_first, device=self._lengths.device) < self._lengths[:, None]
        rows = inside[:, None].expand(-1, num, -1)
        return torch.cat([rows, since.to(rows.device).expand(len(rows), -1, -1)], -1)[:, None]


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

        With a cache, `embedded` are the positions that follow the cached ones, and their keys and values are added.
        """
        cache = self.empty_cache() if cache is None else cache
        num = embedded.shape[1]
        positions, mask = cache.positions(num), cache.mask(num)
        rotations = rope(positions, self.shape.head_size, self.shape.rope_theta).to(embedded)
        mask = None if mask is None else mask.to(embedded.device)
        for index, layer in enumerate(self.layers):
            embedded = layer(embedded, rotations, cache.layers[index], mask)
        return self.norm(embedded)

    def empty_cache(self, prefix: Prefix | None = None) -> Cache:
        """Return the cache to pass with the first position, or with the first one after a prefix."""
        return Cache(len(self.layers), prefix)

    def prefix(self, embedded: Float[Tensor, "b p h"], lengths: Int[Tensor, " b"]) -> Prefix:
        """Compute the keys and values of first positions, padded at the end to one length."""
        cache = self.empty_cache()
        self(embedded, cache)
        return Prefix(tuple((keys, values) for keys, values in cache.layers), lengths)

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
        self,
        x: Float[Tensor, "b s h"],
        rotations: Float[Tensor, "2 r 1 s d"],
        cache: list[Tensor],
        mask: Bool[Tensor, "r 1 s k"] | None,
    ) -> Float[Tensor, "b s h"]:
        x = x + self.self_attn(self.input_layernorm(x), rotations, cache, mask)
        return x + self.mlp(self.post_attention_layernorm(x))


class Attention(nn.Module):
    """Causal attention in which several query heads share a key head (Ainslie et al. 2023)."""

    def __init__(self, shape: LlamaShape) -> None:
        super().__init__()
        self.head_size, hidden, keys = shape.head_size, shape.hidden_size, shape.num_key_value_heads * shape.head_size
        self.q_proj, self.o_proj = (nn.Linear(hidden, hidden, bias=False) for _ in range(2))
        self.k_proj, self.v_proj = (nn.Linear(hidden, keys, bias=False) for _ in range(2))

    def forward(
        self,
        x: Float[Tensor, "b s h"],
        rotations: Float[Tensor, "2 r 1 s d"],
        cache: list[Tensor],
        mask: Bool[Tensor, "r 1 s k"] | None,
    ) -> Float[Tensor, "b s h"]:
        q, k, v = (
            proj(x).unflatten(-1, (-1, self.head_size)).transpose(1, 2)
            for proj in (self.q_proj, self.k_proj, self.v_proj)
        )
        q, k = rotate(q, rotations), rotate(k, rotations)
        if cache:
            k, v = torch.cat([cache[0], k], 2), torch.cat([cache[1], v], 2)
        cache[:] = k, v
        is_causal = mask is None and q.shape[2] > 1
        out = nn.functional.scaled_dot_product_attention(q, k, v, mask, is_causal=is_causal, enable_gqa=True)
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


def rope(positions: Int[Tensor, "r s"], head_size: int, theta: float) -> Float[Tensor, "2 r 1 s d"]:
    """Return cosine and sine of the rotary angles of each position (Su et al. 2021), once per half of a head."""
    rates = theta ** -(torch.arange(0, head_size, 2, device=positions.device) / head_size)
    angles = (positions[..., None] * rates).repeat(1, 1, 2)[:, None]
    return torch.stack([angles.cos(), angles.sin()])


def rotate(x: Float[Tensor, "b n s d"], rotations: Float[Tensor, "2 r 1 s d"]) -> Float[Tensor, "b n s d"]:
    """Rotate each pair (i, i + d/2) of entries by the angle of its position."""
    first, second = x.chunk(2, -1)
    return x * rotations[0] + torch.cat([-second, first], -1) * rotations[1]
