"""One more token for every row, straight over the weights of an OPT, Llama or Qwen2: sampling's fast path on a CPU.

What transformers' forward computes, in fewer and larger operations: query, key and value are one product, activation
and residual are part of theirs, weights are packed and adapters folded in (`lm/cpu/packed.py`), prompts are read
without padding, and keys and values are written into room that is there already. `lm/sampling/stepper.py` is its slow
twin.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from peft.tuners.lora import Linear as LoraLinear
from torch import Tensor, nn
from torch.nn.functional import embedding, pad, scaled_dot_product_attention
from transformers import LlamaForCausalLM, OPTForCausalLM, PreTrainedModel, Qwen2ForCausalLM
from transformers.models.llama.modeling_llama import rotate_half

from tercet.lm.cpu.linear import is_untouched
from tercet.lm.cpu.packed import Product, can_be_folded, folded, pays
from tercet.lm.cpu.prefixes import Prefixes

_ROOM = 64  # columns by which the cache grows
_ALL = slice(None)

Map = Callable[[Tensor], Tensor]
Rotate = Map  # of queries or keys (n, heads, d)


@dataclass(frozen=True)
class _Layer:
    """`norms` stand in front of attention and MLP, or behind the sums (`norm_first` False, as in OPT-350M)."""

    qkv: Product
    out: Product
    up: Map
    down: Product
    norms: tuple[Map, Map]
    norm_first: bool
    num_heads: int  # of queries, keys and values together

    def __call__(self, x: Float[Tensor, "n d"], attend: Map, read: Tensor | slice = _ALL) -> Float[Tensor, "r d"]:
        """One layer of the transformer; `attend` turns the heads (n, heads, d) into what they see (n, _).

        Behind attention, only the tokens that are `read` go on.
        """
        before, behind = self.norms
        heads = self.qkv(before(x) if self.norm_first else x).unflatten(-1, (self.num_heads, -1))
        x = self.out.added_to(x[read], attend(heads)[read])
        x = x if self.norm_first else before(x)
        x = self.down.added_to(x, self.up(behind(x) if self.norm_first else x))
        return x if self.norm_first else behind(x)


@dataclass(frozen=True)
class _Network:
    """`embed` takes tokens and positions, and gives the first states and what rotates queries and keys."""

    embed: Callable[[Int[Tensor, " n"], Int[Tensor, " n"]], tuple[Float[Tensor, "n d"], Rotate | None]]
    layers: Sequence[_Layer]
    finish: Map  # from the last states to the logits
    num_kv_heads: int


def knows(model: PreTrainedModel, num_rows: int) -> bool:
    """Whether the fast path can take this model, and pays for so many rows."""
    kinds = set(getattr(model.config, "layer_types", None) or ["full_attention"])
    is_known = type(model) in (OPTForCausalLM, LlamaForCausalLM, Qwen2ForCausalLM) and kinds == {"full_attention"}
    return is_known and pays(model, num_rows) and all(map(_is_plain, model.modules()))


def _is_plain(module: nn.Module) -> bool:
    """Whether the fast path, which reads the weights of this part and does not call it, misses nothing."""
    if isinstance(module, nn.Linear | LoraLinear):
        return can_be_folded(module)
    # checkpointing puts a hook on the embedding, which matters to gradients alone
    return isinstance(module, nn.Embedding) or is_untouched(module)


class Decoder:
    """A batch under way: `keys` and `values` of each layer, (b, heads, columns, d), right-aligned, the newest last."""

    def __init__(self, model: PreTrainedModel, prompts: Sequence[Sequence[int]]) -> None:
        """Read the prompts; `logits` are those behind each. A prompt that is asked several times is computed once."""
        network = _opt if isinstance(model, OPTForCausalLM) else _llama
        self.network = network(model, len(prompts))
        self.keys: list[Float[Tensor, "b h t d"]] = []
        self.values: list[Float[Tensor, "b h t d"]] = []
        distinct = list(dict.fromkeys(map(tuple, prompts)))
        places = {prompt: place for place, prompt in enumerate(distinct)}
        rows = torch.tensor([places[tuple(prompt)] for prompt in prompts])
        self.lengths = torch.tensor([len(prompt) for prompt in distinct])
        self.width = int(self.lengths.max())
        self.logits = self._read(distinct)[rows]
        self.keep(rows)

    def __call__(self, tokens: Int[Tensor, " b"]) -> Float[Tensor, "b v"]:
        """The logits behind one more token of each row."""
        if self.width == self.keys[0].shape[2]:
            self._make_room()
        x, rotate = self.network.embed(tokens, self.lengths)
        self.lengths = self.lengths + 1
        self.width += 1
        hidden = self._hidden_columns()
        for number, layer in enumerate(self.network.layers):
            x = layer(x, lambda heads, number=number: self._seen_by_newest(number, heads, rotate, hidden))
        return self.network.finish(x)

    def keep(self, rows: Int[Tensor, " n"]) -> None:
        """Go on with these rows alone, and with the columns that they need."""
        self.lengths = self.lengths[rows]
        start = self.width - int(self.lengths.max())
        self.keys = [keys[rows, :, start:] for keys in self.keys]
        self.values = [values[rows, :, start:] for values in self.values]
        self.width -= start

    def _read(self, prompts: Sequence[tuple[int, ...]]) -> Float[Tensor, "b v"]:
        """All prompts one behind the other as the rows of each product, what several begin with once.

        Attention alone sees where one ends.
        """
        prefixes = Prefixes.of(prompts)
        x, rotate = self.network.embed(prefixes.tokens, prefixes.positions)
        *layers, last = self.network.layers

        def attend(heads: Tensor) -> Tensor:
            return self._seen_within(prefixes, heads, rotate)

        for layer in layers:
            x = layer(x, attend)
        return self.network.finish(last(x, attend, prefixes.place[self.lengths.cumsum(0) - 1]))

    def _make_room(self) -> None:
        self.keys = [pad(keys[:, :, : self.width], (0, 0, 0, _ROOM)) for keys in self.keys]
        self.values = [pad(values[:, :, : self.width], (0, 0, 0, _ROOM)) for values in self.values]

    def _hidden_columns(self) -> Float[Tensor, "b 1 1 t"] | None:
        """What is added to attention's scores: -inf left of a row's first token; None where all rows are as long."""
        first = self.width - self.lengths
        if not first.any():
            return None
        is_left = torch.arange(self.width) < first[:, None, None, None]
        return torch.zeros(is_left.shape).masked_fill_(is_left, -torch.inf)

    def _seen_within(
        self, prefixes: Prefixes, heads: Float[Tensor, "n heads d"], rotate: Rotate | None
    ) -> Float[Tensor, "n _"]:
        """What each token sees of its own prompt; keys and values of the prompts become those of one more layer."""
        query, key, value = (part.transpose(0, 1) for part in self._split(heads, rotate))
        for held, part in ((self.keys, key), (self.values, value)):
            held.append(torch.stack([pad(p, (0, 0, self.width - p.shape[1], 0)) for p in prefixes.split(part)]))
        seen = prefixes.attended(query[None], key[None], value[None])[0]
        return seen.transpose(0, 1).flatten(1)

    def _seen_by_newest(
        self, number: int, heads: Float[Tensor, "b heads d"], rotate: Rotate | None, hidden: Tensor | None
    ) -> Float[Tensor, "b _"]:
        """What the newest token of each row sees in a layer, whose keys and values it joins."""
        query, key, value = self._split(heads, rotate)
        keys, values = self.keys[number], self.values[number]
        keys[:, :, self.width - 1] = key
        values[:, :, self.width - 1] = value
        # the queries that share a key's head lie side by side, as if they were several tokens of one head
        query = query.unflatten(1, (self.network.num_kv_heads, -1))
        seen = scaled_dot_product_attention(
            query, keys[:, :, : self.width], values[:, :, : self.width], attn_mask=hidden
        )
        return seen.flatten(1)

    def _split(self, heads: Float[Tensor, "n heads d"], rotate: Rotate | None) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values; what is rotated is rotated in one go."""
        num_kv = self.network.num_kv_heads
        num_rotated = heads.shape[1] - num_kv
        rotated, value = heads.split([num_rotated, num_kv], dim=1)
        query, key = (rotate(rotated) if rotate else rotated).split([num_rotated - num_kv, num_kv], dim=1)
        return query, key, value


def _fused(layers: Sequence[nn.Module], num_rows: int) -> Product:
    """Several products of the same input as one."""
    parts = [folded(layer) for layer in layers]
    biases = [torch.zeros(len(weight)) if bias is None else bias for weight, bias in parts]
    has_bias = any(bias is not None for _, bias in parts)
    return Product(torch.cat([weight for weight, _ in parts]), torch.cat(biases) if has_bias else None, num_rows)


def _opt(model: PreTrainedModel, num_rows: int) -> _Network:
    """Zhang et al. 2022; the 350M model has its norms behind the sums and its word embedding narrower than the rest."""
    body: Any = model.model.decoder  # transformers' parts, known by name, unknown to its types
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

    return _Network(embed, [layer(block) for block in body.layers], finish, config.num_attention_heads)


def _llama(model: PreTrainedModel, num_rows: int) -> _Network:
    """Touvron et al. 2023: rotary positions, gated MLP, fewer heads for keys and values than for queries."""
    body: Any = model.model  # transformers' parts, known by name, unknown to its types
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
    return _Network(embed, layers, lambda x: head(body.norm(x)), config.num_key_value_heads)
