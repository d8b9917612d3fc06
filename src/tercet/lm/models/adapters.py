"""Low-rank adapters (Hu et al. 2021): freeze the model, add adapters to its layers, merge them."""

import copy
from collections.abc import Callable, Mapping
from functools import partial
from typing import Literal, TypeVar, cast

import torch
from jaxtyping import Float
from peft import LoraConfig as PeftConfig
from peft import PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import PreTrainedModel

from tercet.config.lm import LoraConfig, NetworkConfig
from tercet.errors import InputError
from tercet.lm.cpu.last_layer import layers_of
from tercet.lm.cpu.linear import is_linear
from tercet.lm.cpu.lora_product import fuse
from tercet.lm.cpu.unpadded import recompute_alike
from tercet.lm.models.four_bits import as_plain_layers, is_packed, is_quantised, restored
from tercet.train.chance import generator, seed_everything

Precision = Literal["fp32", "bf16", "fp16"]
# the type in which matrix products are computed, and in which frozen layers are stored
DTYPES: dict[Precision, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
Tree = TypeVar("Tree", bound=nn.Module)


def freeze(model: PreTrainedModel, precision: Precision) -> None:
    """Freeze all weights and store them in `precision`.

    In bf16 and fp16, store the layers in that type that autocast would round at every use. Everything else stays in
    fp32, so that a frozen reference gives exactly the log-probabilities of the actor that it is a copy of.
    """
    model.requires_grad_(False)
    if precision != "fp32":
        for layer in layers_in(model).values():
            layer.to(DTYPES[precision])


@torch.no_grad()
def round_stochastically(model: PreTrainedModel, seed: int, precision: Precision = "bf16") -> None:
    """Round the fp32 weights of the layers to bf16 or fp16 values stochastically (Gupta et al. 2015), unbiased.

    Merged adapters mostly change a weight by less than half of bf16's spacing, so rounding to nearest would undo the
    change. Stochastic rounding keeps it on average over the weights of a product. Weights that have such values already
    do not change. The random numbers depend on the seed and the layer's name, so every role gets the same weights.
    """
    for name, layer in layers_in(model).items():
        weight, chance = cast(Tensor, layer.weight), generator(seed, precision, name)
        rounded = (_bf16_values if precision == "bf16" else _fp16_values)(weight, chance)
        weight.copy_(rounded.where(weight.isfinite(), weight))


def _bf16_values(weight: Float[Tensor, "..."], chance: torch.Generator) -> Float[Tensor, "..."]:
    noise = torch.randint(2**16, weight.shape, generator=chance, dtype=torch.int32)
    # a bf16 number is the upper half of an fp32 number
    return (weight.view(torch.int32) + noise).bitwise_and_(-(2**16)).view(torch.float32)


def _fp16_values(weight: Float[Tensor, "..."], chance: torch.Generator) -> Float[Tensor, "..."]:
    # 11 binary digits; below 2^-14 the spacing of fp16 stays that of 2^-14
    spacing = torch.ldexp(torch.ones_like(weight), (torch.frexp(weight).exponent - 11).clamp(min=-24))
    return (weight / spacing + torch.rand(weight.shape, generator=chance)).floor() * spacing


def adapt(model: PreTrainedModel, config: NetworkConfig, *, dropout: float = 0.0) -> PeftModel:
    """Add trainable adapters to a frozen model. They have no effect yet, and the model's own weights do not change."""
    lora = config.lora
    if config.model.gradient_checkpointing:
        checkpoint_gradients(model)
    head = model.get_output_embeddings()
    heads = [name for name, module in model.named_modules() if module is head and not lora.only]
    seed_everything(config.seed, "adapters")
    settings = PeftConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=dropout,
        target_modules=_targets(model, lora),
        modules_to_save=heads or None,
    )
    adapted = get_peft_model(model, settings)
    fuse(adapted)
    for parameter in adapted.parameters():
        if parameter.requires_grad:  # a trainable head was copied in the precision of the frozen weights
            parameter.data = parameter.data.float()
    return adapted


def checkpoint_gradients(model: PreTrainedModel) -> None:
    """Turn on gradient checkpointing: the backward pass recomputes activations."""
    # a recomputed layer must use the same attention function as in the forward pass
    model.gradient_checkpointing_enable({"use_reentrant": False, "context_fn": partial(recompute_alike, model.config)})
    model.enable_input_require_grads()


def merged(adapted: PeftModel) -> PreTrainedModel:
    """Return a copy on the CPU in fp32 with the adapters merged into its weights.

    A merge in bf16 would round away much of what was learned. The model itself does not change, because other roles may
    share its weights. Weights in 4 bits are restored as the adapters were trained on them, with what quantisation has
    changed.
    """

    def of(parameter: nn.Parameter) -> nn.Parameter:
        value = restored(parameter) if is_packed(parameter) else parameter.detach()
        return nn.Parameter(value.to("cpu", torch.float32, copy=True), requires_grad=False)

    copy_in_fp32 = copied(adapted, of=of).cpu()
    as_plain_layers(copy_in_fp32)
    model = copy_in_fp32.merge_and_unload()
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    if head is not None and head.weight is not embedding.weight:
        model.config.tie_word_embeddings = False  # the head was trained separately
    return model


def copied(
    tree: Tree, *, of: Callable[[nn.Parameter], nn.Parameter] = lambda p: p, also: Mapping[int, object] = {}
) -> Tree:
    """Copy the modules but share the parameters, or use `of(p)` in place of each parameter p.

    `also` maps the id of further objects to their replacements.
    """
    return copy.deepcopy(tree, {id(parameter): of(parameter) for parameter in tree.parameters()} | dict(also))


def _targets(model: PreTrainedModel, lora: LoraConfig) -> list[str]:
    """Return the names of the layers that get adapters: `lora.target_modules`, or every matrix of the transformer.

    With `lora.num_layers`, only those in the last layers of the transformer.
    """
    inside = [name for name in layers_in(model) if not _is_read_by_kernels(model, name)]
    if lora.num_layers:
        last = layers_of(model.base_model, model.config.num_hidden_layers)[-lora.num_layers :]
        chosen = set(last.modules())
        inside = [name for name in inside if model.get_submodule(name) in chosen]
    if not lora.target_modules:
        return inside
    last_names = sorted({name.rsplit(".", 1)[-1] for name in inside})
    for target in lora.target_modules:
        if not any(name.endswith(target) for name in inside):
            raise InputError(
                f"lora.target_modules: no layer is called {target!r}; this model has {', '.join(last_names)}"
            )
    return [name for name in inside if name.endswith(tuple(lora.target_modules))]


def _is_read_by_kernels(model: PreTrainedModel, name: str) -> bool:
    """Return True if a state-space mixer may pass the layer's weight to a kernel instead of calling the layer.

    Adapters on such a layer would have no effect.
    """
    mixer, _, layer = name.rpartition(".")
    return layer in ("out_proj", "dt_proj") and hasattr(model.get_submodule(mixer), "A_log")


def layers_in(model: PreTrainedModel) -> dict[str, nn.Module]:
    """Return the linear layers of the transformer by name, without embeddings and heads."""
    return {
        name: module
        for name, module in model.named_modules()
        if (is_linear(module) or is_quantised(module)) and name.startswith(f"{model.base_model_prefix}.")
    }
