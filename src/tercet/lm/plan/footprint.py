"""The memory of a network, measured without its weights: on torch's meta device and with fake tensors.

The pipeline's own code builds the model from tensors that have shapes but no data. A forward pass on them saves tensors
of the same sizes for its backward pass as a real one.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from math import ceil
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn.functional import linear
from transformers import PretrainedConfig as HfConfig
from transformers import PreTrainedModel

from tercet.config.lm import NetworkConfig
from tercet.lm.cpu.last_layer import can_be_narrowed, layers_of
from tercet.lm.models.adapters import DTYPES
from tercet.lm.models.configs import fresh
from tercet.lm.models.four_bits import BYTES
from tercet.lm.models.logprobs import CHUNK
from tercet.lm.models.roles import Policy, ScoreModel, policy_of, score_model_of
from tercet.lm.plan.cost import Network

Kind = Literal["policy", "score"]


@dataclass(frozen=True)
class Footprint:
    """Bytes of the parts of one network, and the numbers that determine its cost."""

    network: Network
    stored: int  # all weights, adapters included
    adapters: int  # of these, the adapters
    restored: int  # the largest matrix while a product restores it from 4 bits
    learning: int  # trainable weights in fp32; the gradients have the same size
    moments: int  # AdamW's two, in fp32 or in 8 bits
    packed: int  # linear layers in fp32: the copy that sampling on a CPU makes
    sampled: int  # the whole copy that is sampled from if the weights are divided among processes
    one_layer: int  # the largest layer of the transformer
    outside: int  # all weights outside the layers
    learning_outside: int  # of these, the trainable ones, in fp32


@dataclass(frozen=True)
class Activations:
    """Bytes that a forward pass saves for the backward pass, and the bytes of one layer."""

    saved: int
    one_layer: int


def footprint(
    config: NetworkConfig,
    hf_config: HfConfig,
    kind: Kind,
    *,
    num_layers: int = 0,
    learns: bool = False,
    is_backbone: bool = False,
) -> Footprint:
    """Count the parameters of a policy or score model of this shape; the shared backbone may be in 4 bits."""
    in_4_bits = is_backbone and config.lora.backbone == "nf4"
    return _footprint(_Case.of(config, hf_config), kind, num_layers, learns, in_4_bits)


@dataclass(frozen=True)
class _Case:
    """The input of a count. Two cases with the same key have the same counts, so only the first is counted."""

    key: str
    config: NetworkConfig = field(compare=False)
    hf_config: HfConfig = field(compare=False)

    @classmethod
    def of(cls, config: NetworkConfig, hf_config: HfConfig) -> "_Case":
        settings = (
            config.lora,
            config.precision,
            config.optimizer,
            config.model.gradient_checkpointing,
            hf_config.to_dict(),
        )
        return cls(repr(settings), config, hf_config)


@lru_cache(maxsize=128)
def _footprint(case: _Case, kind: Kind, num_layers: int, learns: bool, in_4_bits: bool) -> Footprint:
    config, hf_config = case.config, case.hf_config
    module, depth = _built(config, hf_config, kind, num_layers, learns), num_layers or hf_config.num_hidden_layers
    adapters = [p for name, p in module.named_parameters() if "lora_" in name]
    head = cast(nn.Linear, module.head).weight
    layers = [weight for name, weight in _products(module) if "lora_" not in name]
    inside = [weight for weight in layers if weight is not head]
    learning = [p.numel() for p in module.parameters() if p.requires_grad]
    saved = sum(w.nbytes - ceil(BYTES * w.numel()) for w in inside) if in_4_bits else 0
    in_layers = [list(layer.parameters()) for layer in layers_of(module.model.base_model, depth)]
    ids = {id(parameter) for layer in in_layers for parameter in layer}
    outside = [parameter for parameter in module.parameters() if id(parameter) not in ids]
    return Footprint(
        network=Network(
            num_layers=depth,
            width=_head_width(hf_config) * hf_config.num_attention_heads,
            kv_width=_head_width(hf_config) * _kv_heads(hf_config),
            matrices=_count(inside),
            unread=_unread(module.model),
            adapters=_count(adapters),
            head=head.numel(),
            learning=sum(learning),
            weight_bytes=inside[0].element_size() if config.precision == "fp32" else 2,
        ),
        stored=_bytes(module.parameters()) - saved,
        adapters=_bytes(adapters),
        restored=max(w.nbytes for w in inside) if in_4_bits else 0,
        learning=4 * sum(learning),
        moments=sum(map(_moments_in_8_bits if config.optimizer == "adamw8bit" else lambda num: 8 * num, learning)),
        packed=4 * _count(layers),
        # trained layers are in fp32, and in a bf16 or fp16 run those of the copy in that type
        sampled=_bytes(module.parameters())
        - sum(w.nbytes - 2 * w.numel() for w in inside if config.precision != "fp32"),
        one_layer=max(map(_bytes, in_layers)),
        outside=_bytes(outside),
        learning_outside=4 * _count(p for p in outside if p.requires_grad),
    )


def _moments_in_8_bits(num: int) -> int:
    """Return the bytes of both moments of a tensor: small ones are in fp32, and 256 numbers of others have a scale."""
    return 8 * num if num < 4096 else 2 * (num + 4 * ceil(num / 256))


def activations(
    config: NetworkConfig, hf_config: HfConfig, kind: Kind, *, num_layers: int = 0, rows: int, length: int
) -> Activations:
    """Count what a trained network saves for `rows` rows of `length` tokens, up to the input of its head.

    Models of one and of two layers are counted; all layers are assumed to be equal.
    """
    depth = num_layers or hf_config.num_hidden_layers
    one, two = (_saved_bytes(_Case.of(config, hf_config), kind, n, rows, length) for n in (1, 2))
    plain = config.model_copy(update={"model": config.model.model_copy(update={"gradient_checkpointing": False})})
    if config.model.gradient_checkpointing:
        once, twice = (_saved_bytes(_Case.of(plain, hf_config), kind, n, rows, length) for n in (1, 2))
        layer = twice - once
    else:
        layer = two - one
    return Activations(saved=one + (depth - 1) * (two - one), one_layer=layer)


def logits_bytes(hf_config: HfConfig, num_tokens: int) -> int:
    """Return the peak bytes of the log-probabilities of `num_tokens` tokens.

    These are the logits of one chunk, always in fp32, and two tensors of the same size (`core/fused_categorical.py`).
    """
    return min(num_tokens, CHUNK) * hf_config.vocab_size * 3 * 4


def _built(
    config: NetworkConfig, hf_config: HfConfig, kind: Kind, num_layers: int, learns: bool
) -> Policy | ScoreModel:
    model = fresh(hf_config, scores=kind == "score", num_layers=num_layers)
    build = policy_of if kind == "policy" else score_model_of
    with torch.device("meta"):
        return build(model, config, learns=learns)


@lru_cache(maxsize=512)
def _saved_bytes(case: _Case, kind: Kind, num_layers: int, rows: int, length: int) -> int:
    config, hf_config = case.config, case.hf_config
    module = _built(config, hf_config, kind, num_layers, True)
    module.train()
    saved: dict[int, int] = {}
    references = []  # they keep each storage alive, so that its id is not used again
    with FakeTensorMode():
        _give_fake_weights(module)
        own_storages = {_storage(tensor) for tensor in [*module.parameters(), *module.buffers()]}

        def save(tensor: Tensor) -> Tensor:
            references.append(tensor)
            if _storage(tensor) not in own_storages:
                saved[_storage(tensor)] = tensor.untyped_storage().nbytes()
            return tensor

        autocast = torch.autocast("cpu", DTYPES[config.precision], enabled=config.precision != "fp32")
        with saved_tensors_hooks(save, lambda tensor: tensor):
            with autocast:
                out = module.model.base_model(torch.zeros(rows, length, dtype=torch.long), use_cache=False)
            linear(out.last_hidden_state.float(), cast(nn.Linear, module.head).weight)
    return sum(saved.values())


def _give_fake_weights(module: nn.Module) -> None:
    """Replace meta tensors by tensors of the active fake mode; shared tensors stay shared."""
    made: dict[int, Tensor] = {}
    originals = []  # they keep the old tensors alive, so that no id is used twice
    for part in module.modules():
        for group in (part._parameters, part._buffers):
            tensors = cast(dict[str, Tensor | None], group)
            for name, old in tensors.items():
                if old is None:
                    continue
                originals.append(old)
                if id(old) not in made:
                    new = torch.empty(old.shape, dtype=old.dtype)
                    is_parameter = isinstance(old, nn.Parameter)
                    made[id(old)] = nn.Parameter(new, requires_grad=old.requires_grad) if is_parameter else new
                tensors[name] = made[id(old)]


def _storage(tensor: Tensor) -> int:
    return StorageWeakRef(tensor.untyped_storage()).cdata


def _products(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield name and weight of every layer that multiplies by a matrix: Linear, GPT-2's Conv1D, and adapters."""
    for name, part in module.named_modules():
        weight = part._parameters.get("weight")
        if weight is not None and weight.ndim == 2 and not isinstance(part, nn.Embedding):
            yield name, weight


def _count(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() for tensor in tensors)


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _unread(model: PreTrainedModel) -> int:
    """Count the last layer's weights after attention if `lm/cpu/last_layer.py` skips them for most tokens, else 0."""
    if not can_be_narrowed(model):
        return 0
    hf_config = model.config
    layer = layers_of(model.base_model, hf_config.num_hidden_layers)[-1]
    heads = hf_config.num_attention_heads + 2 * _kv_heads(hf_config)
    in_layer = _count(weight for name, weight in _products(layer) if "lora_" not in name)
    return in_layer - heads * _head_width(hf_config) * hf_config.hidden_size


def _head_width(hf_config: HfConfig) -> int:
    return getattr(hf_config, "head_dim", None) or hf_config.hidden_size // hf_config.num_attention_heads


def _kv_heads(hf_config: HfConfig) -> int:
    return getattr(hf_config, "num_key_value_heads", None) or hf_config.num_attention_heads
