"""Decode with OPT, Llama or Qwen2 on a CPU: sampling's fast path, computed directly from the weights.

It computes what transformers' forward does in fewer and larger operations. Query, key and value are one product.
Activation and residual are part of their products. Weights are packed and adapters folded in (`lm/cpu/packed.py`).
Prompts are read without padding. Keys and values are written into memory that is already allocated.
`lm/sampling/stepper.py` does the same for any model.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from peft.tuners.lora import Linear as LoraLinear
from torch import Tensor, nn
from torch.nn.functional import embedding, pad, scaled_dot_product_attention
from transformers import OPTForCausalLM, PreTrainedModel
from transformers.models.llama.modeling_llama import rotate_half

from tercet.lm.cpu.architectures import fast_paths
from tercet.lm.cpu.linear import is_untouched
from tercet.lm.cpu.packed import Product, can_be_folded, folded, pays
from tercet.lm.cpu.prefixes import Prefixes

_NEW_COLUMNS = 64  # by which the cache grows
_ALL = slice(None)

Map = Callable[[Tensor], Tensor]
Rotate = Map  # rotates queries or keys (n, heads, d)


@dataclass(frozen=True)
class _Layer:
    """One layer. `norms` are applied before attention and MLP, or after the sums if not `norm_first` (OPT-350M)."""

    qkv: Product
    out: Product
    up: Map
    down: Product
    norms: tuple[Map, Map]
    norm_first: bool
    num_heads: int  # queries, keys and values together

    def __call__(self, x: Float[Tensor, "n d"], attend: Map, read: Tensor | slice = _ALL) -> Float[Tensor, "r d"]:
        """Compute the layer; `attend` computes attention from the heads: (n, heads, d) -> (n, _).

        After attention, only the tokens in `read` are computed.
        """
        before, after = self.norms
        heads = self.qkv(before(x) if self.norm_first else x).unflatten(-1, (self.num_heads, -1))
        x = self.out.added_to(x[read], attend(heads)[read])
        x = x if self.norm_first else before(x)
        x = self.down.added_to(x, self.up(after(x) if self.norm_first else x))
        return x if self.norm_first else after(x)


@dataclass(frozen=True)
class Network:
    """The parts of a model, with packed weights.

    `embed` maps tokens and positions to states and to the rotation of queries and keys.
    """

    embed: Callable[[Int[Tensor, " n"], Int[Tensor, " n"]], tuple[Float[Tensor, "n d"], Rotate | None]]
    layers: Sequence[_Layer]
    finish: Map  # from the last states to the logits
    num_kv_heads: int


def can_decode(model: PreTrainedModel, num_rows: int) -> bool:
    """Return True if the fast path supports this model and is faster for `num_rows` rows."""
    kinds = set(getattr(model.config, "layer_types", None) or ["full_attention"])
    paths = fast_paths(model)
    is_supported = paths is not None and type(model) is paths.decoder and kinds == {"full_attention"}
    return is_supported and pays(model, num_rows) and all(map(_is_plain, model.modules()))


def _is_plain(module: nn.Module) -> bool:
    """Return True if the module computes only what its weights say: the fast path reads them and does not call it."""
    if isinstance(module, nn.Linear | LoraLinear):
        return can_be_folded(module)
    # gradient checkpointing puts a hook on the embedding, which does not change the numbers
    return isinstance(module, nn.Embedding) or is_untouched(module)


class Decoder:
    """The state of a batch: `keys` and `values` of each layer, (b, heads, columns, d), right-aligned, newest last."""

    def __init__(
        self, model: PreTrainedModel, prompts: Sequence[Sequence[int]], network: Network | None = None
    ) -> None:
        """Read the prompts; `logits` are those after each prompt. Equal prompts are computed once.

        Give the `network` of the model if its weights do not change, so that they are not packed again.
        """
        self.network = network or network_of(model, len(prompts))
        self.keys: list[Float[Tensor, "b h t d"]] = []
        self.values: list[Float[Tensor, "b h t d"]] = []
        distinct = list(dict.fromkeys(map(tuple, prompts)))
        indices = {prompt: index for index, prompt in enumerate(distinct)}
        rows = torch.tensor([indices[tuple(prompt)] for prompt in prompts])
        self.lengths = torch.tensor([len(prompt) for prompt in distinct])
        self.width = int(self.lengths.max())
        self.logits = self._read(distinct)[rows]
        self.keep(rows)

    def __call__(self, tokens: Int[Tensor, " b"]) -> Float[Tensor, "b v"]:
        """Append one token to each row and return the next logits."""
        if self.width == self.keys[0].shape[2]:
            self._grow()
        x, rotate = self.network.embed(tokens, self.lengths)
        self.lengths = self.lengths + 1
        self.width += 1
        hidden = self._hidden_columns()
        for number, layer in enumerate(self.network.layers):
            x = layer(x, lambda heads, number=number: self._attend_newest(number, heads, rotate, hidden))
        return self.network.finish(x)

    def keep(self, rows: Int[Tensor, " n"]) -> None:
        """Drop all other rows, and the columns that these rows do not need."""
        self.lengths = self.lengths[rows]
        start = self.width - int(self.lengths.max())
        self.keys = [keys[rows, :, start:] for keys in self.keys]
        self.values = [values[rows, :, start:] for values in self.values]
        self.width -= start

    def join(self, other: "Decoder") -> bool:
        """Append the rows of another batch of the same model; return True, as it is always possible."""
        width = max(self.width, other.width)
        for mine, theirs in ((self.keys, other.keys), (self.values, other.values)):
            for number, parts in enumerate(zip(mine, theirs, strict=True)):
                widths = (self.width, other.width)
                aligned = [
                    pad(part[:, :, :own], (0, 0, width - own, 0)) for part, own in zip(parts, widths, strict=True)
                ]
                mine[number] = torch.cat(aligned)
        self.lengths = torch.cat([self.lengths, other.lengths])
        self.width = width
        return True

    def _read(self, prompts: Sequence[tuple[int, ...]]) -> Float[Tensor, "b v"]:
        """Read all prompts as one sequence without padding, with shared prefixes once; return the logits after each.

        Only attention depends on where a prompt ends.
        """
        prefixes = Prefixes.of(prompts)
        x, rotate = self.network.embed(prefixes.tokens, prefixes.positions)
        *layers, last = self.network.layers

        def attend(heads: Tensor) -> Tensor:
            return self._attend_prompts(prefixes, heads, rotate)

        for layer in layers:
            x = layer(x, attend)
        return self.network.finish(last(x, attend, prefixes.index[self.lengths.cumsum(0) - 1]))

    def _grow(self) -> None:
        self.keys = [pad(keys[:, :, : self.width], (0, 0, 0, _NEW_COLUMNS)) for keys in self.keys]
        self.values = [pad(values[:, :, : self.width], (0, 0, 0, _NEW_COLUMNS)) for values in self.values]

    def _hidden_columns(self) -> Float[Tensor, "b 1 1 t"] | None:
        """Return the term added to attention scores: -inf left of a row's first token; None if lengths are equal."""
        first = self.width - self.lengths
        if not first.any():
            return None
        is_left = torch.arange(self.width) < first[:, None, None, None]
        return torch.zeros(is_left.shape).masked_fill_(is_left, -torch.inf)

    def _attend_prompts(
        self, prefixes: Prefixes, heads: Float[Tensor, "n heads d"], rotate: Rotate | None
    ) -> Float[Tensor, "n _"]:
        """Compute attention within each prompt, and append the layer's keys and values to the cache."""
        query, key, value = (part.transpose(0, 1) for part in self._split(heads, rotate))
        for cache, part in ((self.keys, key), (self.values, value)):
            cache.append(torch.stack([pad(p, (0, 0, self.width - p.shape[1], 0)) for p in prefixes.split(part)]))
        out = prefixes.attend(query[None], key[None], value[None])[0]
        return out.transpose(0, 1).flatten(1)

    def _attend_newest(
        self, number: int, heads: Float[Tensor, "b heads d"], rotate: Rotate | None, hidden: Tensor | None
    ) -> Float[Tensor, "b _"]:
        """Compute attention of the newest token of each row in a layer, after adding its key and value to the cache."""
        query, key, value = self._split(heads, rotate)
        keys, values = self.keys[number], self.values[number]
        keys[:, :, self.width - 1] = key
        values[:, :, self.width - 1] = value
        # queries that share a head of keys are treated as several tokens of one head
        query = query.unflatten(1, (self.network.num_kv_heads, -1))
        out = scaled_dot_product_attention(
            query, keys[:, :, : self.width], values[:, :, : self.width], attn_mask=hidden
        )
        return out.flatten(1)

    def _split(self, heads: Float[Tensor, "n heads d"], rotate: Rotate | None) -> tuple[Tensor, Tensor, Tensor]:
        """Split the heads into queries, keys and values; queries and keys are rotated together."""
        num_kv = self.network.num_kv_heads
        num_rotated = heads.shape[1] - num_kv
        rotated, value = heads.split([num_rotated, num_kv], dim=1)
        query, key = (rotate(rotated) if rotate else rotated).split([num_rotated - num_kv, num_kv], dim=1)
        return query, key, value


def network_of(model: PreTrainedModel, num_rows: int) -> Network:
    """Pack the weights of a model that `can_decode`, for batches of about `num_rows` rows."""
    return (_opt if isinstance(model, OPTForCausalLM) else _llama)(model, num_rows)


def _fused(layers: Sequence[nn.Module], num_rows: int) -> Product:
    """Join several products of the same input into one."""
    parts = [folded(layer) for layer in layers]
    biases = [torch.zeros(len(weight)) if bias is None else bias for weight, bias in parts]
    has_bias = any(bias is not None for _, bias in parts)
    return Product(torch.cat([weight for weight, _ in parts]), torch.cat(biases) if has_bias else None, num_rows)


def _opt(model: PreTrainedModel, num_rows: int) -> Network:
    """Read an OPT (Zhang et al. 2022); 350M has post-norm layers and a narrower word embedding."""
    body: Any = model.model.decoder  # attributes unknown to transformers' types
    config: Any = model.config
    into = Product(*folded(body.project_in), num_rows) if body.project_in else None
    out_of = Product(*folded(body.project_out), num_rows) if body.project_out else None
    head = Product(*folded(model.lm_head), num_rows)

    def embed(tokens: Tensor, positions: Tensor) -> tuple[Tensor, None]:
        words = embedding(tokens, body.embed_tokens.weight)
        return (into(words) if into else words) + embedding(
            positions + body.embed_positions.offset, body.embed_positions.weight
        ), None

    def finish(x: Tensor) -> Tensor:
        x = body.final_layer_norm(x) if body.final_layer_norm else x
        return head(out_of(x) if out_of else x)

    def layer(block: Any) -> _Layer:
        attention = block.self_attn
        is_relu = config.activation_function == "relu"
        first = Product(*folded(block.fc1), num_rows, "relu" if is_relu else "none")
        return _Layer(
            _fused([attention.q_proj, attention.k_proj, attention.v_proj], num_rows),
            Product(*folded(attention.out_proj), num_rows),
            first if is_relu else lambda x: block.activation_fn(first(x)),
            Product(*folded(block.fc2), num_rows),
            (block.self_attn_layer_norm, block.final_layer_norm),
            config.do_layer_norm_before,
            3 * config.num_attention_heads,
        )

    return Network(embed, [layer(block) for block in body.layers], finish, config.num_attention_heads)


def _llama(model: PreTrainedModel, num_rows: int) -> Network:
    """Read a Llama (Touvron et al. 2023) or Qwen2: rotary positions, gated MLP, grouped-query attention."""
    body: Any = model.model  # attributes unknown to transformers' types
    config: Any = model.config
    head = Product(*folded(model.lm_head), num_rows)

    def embed(tokens: Tensor, positions: Tensor) -> tuple[Tensor, Rotate]:
        x = embedding(tokens, body.embed_tokens.weight)
        cos, sin = body.rotary_emb(x, positions[:, None])  # each (n, 1, d)
        return x, lambda heads: heads * cos + rotate_half(heads) * sin

    def layer(block: Any) -> _Layer:
        attention, mlp = block.self_attn, block.mlp
        gate_and_up = _fused([mlp.gate_proj, mlp.up_proj], num_rows)

        def up(x: Tensor) -> Tensor:
            gate, rest = gate_and_up(x).chunk(2, dim=-1)
            return mlp.act_fn(gate) * rest

        return _Layer(
            _fused([attention.q_proj, attention.k_proj, attention.v_proj], num_rows),
            Product(*folded(attention.o_proj), num_rows),
            up,
            Product(*folded(mlp.down_proj), num_rows),
            (block.input_layernorm, block.post_attention_layernorm),
            norm_first=True,
            num_heads=config.num_attention_heads + 2 * config.num_key_value_heads,
        )

    layers = [layer(block) for block in body.layers]
    return Network(embed, layers, lambda x: head(body.norm(x)), config.num_key_value_heads)
