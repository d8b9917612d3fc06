"""Low-rank adapters (Hu et al. 2021): what stays frozen, where they go, how they are merged and kept."""

import copy
from collections.abc import Callable, Mapping
from functools import partial
from typing import Literal, TypeVar, cast

import torch
from peft import LoraConfig as PeftConfig
from peft import PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import PreTrainedModel

from tercet.config.lm import LmConfig, LoraConfig
from tercet.errors import InputError
from tercet.lm.cpu.linear import is_linear
from tercet.lm.cpu.lora_product import fuse
from tercet.lm.cpu.unpadded import recompute_alike
from tercet.train.chance import generator, seed_everything

Precision = Literal["fp32", "bf16"]
Tree = TypeVar("Tree", bound=nn.Module)


def freeze(model: PreTrainedModel, precision: Precision) -> None:
    """Let nothing learn, and store it as `precision` wants it.

    In bf16 the frozen layers that autocast would round at every use are stored rounded. All else stays in fp32, so
    that a frozen reference gives the very log-probabilities of the learning actor that it is a copy of.
    """
    model.requires_grad_(False)
    if precision == "bf16":
        for layer in _layers(model).values():
            layer.to(torch.bfloat16)


@torch.no_grad()
def round_stochastically(model: PreTrainedModel, seed: int) -> None:
    """Move the fp32 weights of the layers to numbers that bf16 has: up or down by chance, right in the mean.

    What merged adapters add to a weight is mostly less than half of bf16's spacing, and rounding to the nearest would
    take it away again; over the many weights of a product, stochastic rounding (Gupta et al. 2015) keeps it. Weights
    that bf16 has already do not change. Chance follows from the layer's name, so every role gets the same weights.
    """
    for name, layer in _layers(model).items():
        weight = cast(Tensor, layer.weight)
        chance = torch.randint(2**16, weight.shape, generator=generator(seed, "bf16", name), dtype=torch.int32)
        # a bf16 number is the upper half of an fp32 number
        rounded = (weight.view(torch.int32) + chance).bitwise_and_(-(2**16)).view(torch.float32)
        weight.copy_(rounded.where(weight.isfinite(), weight))


def adapt(model: PreTrainedModel, config: LmConfig, *, dropout: float = 0.0) -> PeftModel:
    """Give a frozen model adapters that learn and have no effect yet; its own weights stay as they are."""
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
        if parameter.requires_grad:  # a head that learns was copied in the precision of the frozen rest
            parameter.data = parameter.data.float()
    return adapted


def checkpoint_gradients(model: PreTrainedModel) -> None:
    """Compute activations again in the backward pass."""
    # a layer that is computed again must see the attention that it saw the first time
    model.gradient_checkpointing_enable({"use_reentrant": False, "context_fn": partial(recompute_alike, model.config)})
    model.enable_input_require_grads()


def merged(adapted: PeftModel) -> PreTrainedModel:
    """A copy on the CPU, in fp32, with the adapters in its weights; merged in bf16, what was learned would round away.

    The weights themselves must not change: other roles may read them too.
    """

    def of(parameter: nn.Parameter) -> nn.Parameter:
        return nn.Parameter(parameter.detach().to("cpu", torch.float32, copy=True), requires_grad=False)

    model = copied(adapted, of=of).cpu().merge_and_unload()
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    if head is not None and head.weight is not embedding.weight:
        model.config.tie_word_embeddings = False  # a head that learned on its own
    return model


def copied(
    tree: Tree, *, of: Callable[[nn.Parameter], nn.Parameter] = lambda p: p, also: Mapping[int, object] = {}
) -> Tree:
    """A copy of the modules on the same parameters, or on `of(p)` in place of each parameter p.

    `also`: what stands in for other objects, by id.
    """
    return copy.deepcopy(tree, {id(parameter): of(parameter) for parameter in tree.parameters()} | dict(also))


def _targets(model: PreTrainedModel, lora: LoraConfig) -> list[str]:
    """Names of the layers that get adapters: those asked for, or every matrix of the transformer itself."""
    inside = [name for name in _layers(model) if not _is_read_by_kernels(model, name)]
    if not lora.target_modules:
        return inside
    known = sorted({name.rsplit(".", 1)[-1] for name in inside})
    for wanted in lora.target_modules:
        if not any(name.endswith(wanted) for name in inside):
            raise InputError(f"lora.target_modules: no layer is called {wanted!r}; this model has {', '.join(known)}")
    return [name for name in inside if name.endswith(tuple(lora.target_modules))]


def _is_read_by_kernels(model: PreTrainedModel, name: str) -> bool:
    """Whether a state-space mixer may give the layer's weight to a kernel and not call it: adapters would be lost."""
    mixer, _, own = name.rpartition(".")
    return own in ("out_proj", "dt_proj") and hasattr(model.get_submodule(mixer), "A_log")


def _layers(model: PreTrainedModel) -> dict[str, nn.Module]:
    """The matrix products of the transformer itself: neither embeddings nor heads."""
    return {
        name: module
        for name, module in model.named_modules()
        if is_linear(module) and name.startswith(f"{model.base_model_prefix}.")
    }
