"""One more token for every row, straight over the weights of an OPT, Llama or Qwen2: sampling's fast path on a CPU.

What transformers' forward computes, in fewer and larger operations: query, key and value are one product, activation
and residual are part of theirs, weights are packed (`lm/packed.py`), and keys and values are written into room that is
there already. Prompts are read by the model's own forward, whose cache is taken over. `lm/stepper.py` is its slow twin.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import embedding, pad, scaled_dot_product_attention
from transformers import LlamaForCausalLM, OPTForCausalLM, PreTrainedModel, Qwen2ForCausalLM
from transformers.models.llama.modeling_llama import rotate_half

from tercet.lm.packed import Product, folded, pays
from tercet.lm.stepper import Stepper

_ROOM = 64  # columns by which the cache grows

Map = Callable[[Tensor], Tensor]
Rotate = Callable[[Tensor], Tensor]  # of queries or keys (b, heads, d)


@dataclass(frozen=True)
class _Layer:
    """`norms` stand in front of attention and MLP, or behind the sums (`norm_first` False, as in OPT-350M)."""

    qkv: Product
    out: Product
    up: Map
    down: Product
    norms: tuple[Map, Map]
    norm_first: bool


@dataclass(frozen=True)
class _Network:
    """`embed` takes tokens and positions, and gives the first states and what rotates queries and keys."""

    embed: Callable[[Int[Tensor, " b"], Int[Tensor, " b"]], tuple[Float[Tensor, "b d"], Rotate | None]]
    layers: Sequence[_Layer]
    finish: Map  # from the last states to the logits
    num_heads: int
    num_kv_heads: int


def knows(model: PreTrainedModel, num_rows: int) -> bool:
    """Whether the fast path can take this model, and pays for so many rows."""
    kinds = set(getattr(model.config, "layer_types", None) or ["full_attention"])
    is_known = type(model) in (OPTForCausalLM, LlamaForCausalLM, Qwen2ForCausalLM) and kinds == {"full_attention"}
    return is_known and pays(model, num_rows)


class Decoder:
    """The state of a batch under way: `keys` and `values` of each layer, (b, heads, columns, d), the newest last."""

    def __init__(self, read: Stepper) -> None:
        """Go on where the slow path has read the prompts; `read` is of no use afterwards."""
        network = _opt if isinstance(read.model, OPTForCausalLM) else _llama
        self.network = network(read.model, len(read.mask))
        layers = read.cache.layers
        self.width = read.mask.shape[1]
        self.lengths = read.mask.sum(1)
        self.keys, self.values = [layer.keys for layer in layers], [layer.values for layer in layers]
        self._make_room()

    def __call__(self, tokens: Int[Tensor, " b"]) -> Float[Tensor, "b v"]:
        """The logits behind one more token of each row."""
        if self.width == self.keys[0].shape[2]:
            self._make_room()
        x, rotate = self.network.embed(tokens, self.lengths)
        self.lengths = self.lengths + 1
        self.width += 1
        hidden = self._hidden_columns()
        for number, layer in enumerate(self.network.layers):
            before, behind = layer.norms
            seen = self._attended(number, layer.qkv(before(x) if layer.norm_first else x), rotate, hidden)
            x = layer.out.added_to(x, seen)
            x = x if layer.norm_first else before(x)
            x = layer.down.added_to(x, layer.up(behind(x) if layer.norm_first else x))
            x = x if layer.norm_first else behind(x)
        return self.network.finish(x)

    def keep(self, rows: Int[Tensor, " n"]) -> None:
        """Go on with these rows alone, and with the columns that they need."""
        self.lengths = self.lengths[rows]
        start = self.width - int(self.lengths.max())
        self.keys = [keys[rows, :, start:] for keys in self.keys]
        self.values = [values[rows, :, start:] for values in self.values]
        self.width -= start

    def _make_room(self) -> None:
        self.keys = [pad(keys[:, :, : self.width], (0, 0, 0, _ROOM)) for keys in self.keys]
        self.values = [pad(values[:, :, : self.width], (0, 0, 0, _ROOM)) for values in self.values]

    def _hidden_columns(self) -> Float[Tensor, "b 1 1 t"] | None:
        """What is added to attention's scores: -inf left of a row's first token; None where all rows are as long."""
        first = self.width - self.lengths
        if not first.any():
            return None
        columns = torch.arange(self.width)
        return torch.zeros(len(first), 1, 1, self.width).masked_fill_(
            columns[None, None, None] < first[:, None, None, None], -torch.inf
        )

    def _attended(
        self, number: int, qkv: Float[Tensor, "b _"], rotate: Rotate | None, hidden: Tensor | None
    ) -> Float[Tensor, "b _"]:
        heads, kv_heads = self.network.num_heads, self.network.num_kv_heads
        query, key, value = qkv.unflatten(-1, (heads + 2 * kv_heads, -1)).split([heads, kv_heads, kv_heads], dim=1)
        if rotate is not None:
            query, key = rotate(query), rotate(key)
        keys, values = self.keys[number], self.values[number]
        keys[:, :, self.width - 1] = key
        values[:, :, self.width - 1] = value
        # the queries that share a key's head lie side by side, as if they were several tokens of one head
        query = query.unflatten(1, (kv_heads, -1))
        seen = scaled_dot_product_attention(
            query, keys[:, :, : self.width], values[:, :, : self.width], attn_mask=hidden
        )
        return seen.flatten(1)


def _fused(layers: Sequence[nn.Module], num_rows: int) -> Product:
    """Several products of the same input as one."""
    parts = [folded(layer) for layer in layers]
    biases = [torch.zeros(len(weight)) if bias is None else bias for weight, bias in parts]
    has_bias = any(bias is not None for _, bias in parts)
    return Product(torch.cat([weight for weight, _ in parts]), torch.cat(biases) if has_bias else None, num_rows)


def _opt(model: OPTForCausalLM, num_rows: int) -> _Network:
    """Zhang et al. 2022; the 350M model has its norms behind the sums and its word embedding narrower than the rest."""
    body, config = model.model.decoder, model.config
    into = Product(*folded(body.project_in), num_rows) if body.project_in else None
    out_of = Product(*folded(body.project_out), num_rows) if body.project_out else None
    head = Product(*folded(model.get_output_embeddings()), num_rows)

    def embed(tokens: Tensor, positions: Tensor) -> tuple[Tensor, None]:
        words = embedding(tokens, body.embed_tokens.weight)
        return (into(words) if into else words) + embedding(
            positions + body.embed_positions.offset, body.embed_positions.weight
        ), None

    def finish(x: Tensor) -> Tensor:
        x = body.final_layer_norm(x) if body.final_layer_norm else x
        return head(out_of(x) if out_of else x)

    def layer(block: nn.Module) -> _Layer:
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
        )

    heads = config.num_attention_heads
    return _Network(embed, [layer(block) for block in body.layers], finish, heads, heads)


def _llama(model: LlamaForCausalLM | Qwen2ForCausalLM, num_rows: int) -> _Network:
    """Touvron et al. 2023: rotary positions, gated MLP, fewer heads for keys and values than for queries."""
    body, config = model.model, model.config
    head = Product(*folded(model.get_output_embeddings()), num_rows)

    def embed(tokens: Tensor, positions: Tensor) -> tuple[Tensor, Rotate]:
        x = embedding(tokens, body.embed_tokens.weight)
        cos, sin = body.rotary_emb(x, positions[:, None])  # each (b, 1, d)
        return x, lambda heads: heads * cos + rotate_half(heads) * sin

    def layer(block: nn.Module) -> _Layer:
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
        )

    layers = [layer(block) for block in body.layers]
    return _Network(embed, layers, lambda x: head(body.norm(x)), config.num_attention_heads, config.num_key_value_heads)
