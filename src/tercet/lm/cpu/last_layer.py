"""The last layer behind its attention, computed for those tokens alone whose state is read.

No other token looks at what the last layer makes of one. Of a PPO batch the prompts are not read there, and of a row
for the reward model nothing but its end: output projection, norm and MLP of these would be computed for nothing.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from jaxtyping import Bool
from torch import Tensor, nn
from transformers import PreTrainedModel

from tercet.lm.own_code import is_from_transformers

# of a layer: the norm in front of its attention, and the projection at the attention's end
_ENDS_OF_ATTENTION = {
    "gpt_neox": ("input_layernorm", "attention.dense"),
    "llama": ("input_layernorm", "self_attn.o_proj"),
    "opt": ("self_attn_layer_norm", "self_attn.out_proj"),
    "qwen2": ("input_layernorm", "self_attn.o_proj"),
    "qwen3": ("input_layernorm", "self_attn.o_proj"),
}


def layers_of(tree: nn.Module, num_layers: int) -> nn.ModuleList:
    """The transformer's list of layers, which every architecture names in its own way."""
    return next(m for m in tree.modules() if isinstance(m, nn.ModuleList) and len(m) == num_layers)


def can_be_narrowed(model: PreTrainedModel) -> bool:
    """Whether `narrowed` knows the model's layers. With gradient checkpointing the backward pass, which computes the
    last one again, would compute it whole.
    """
    config = model.config
    norm_first = getattr(config, "do_layer_norm_before", True)  # OPT-350M's norms stand behind the sums
    if config.model_type not in _ENDS_OF_ATTENTION or not norm_first or not is_from_transformers(model):
        return False
    return not getattr(_last_layer(model), "gradient_checkpointing", False)


def _last_layer(model: PreTrainedModel) -> nn.Module:
    return layers_of(model.base_model, model.config.num_hidden_layers)[-1]


@contextmanager
def narrowed(model: PreTrainedModel, read: Bool[Tensor, "b length"]) -> Iterator[None]:
    """Within it a forward pass over (b, length) tokens ends in the states of the n that are `read`, as one row (1, n).

    Attention gets the states of all tokens, what is added to it and what follows it those of the tokens read.
    """
    layer = _last_layer(model)
    norm, projection = (layer.get_submodule(name) for name in _ENDS_OF_ATTENTION[model.config.model_type])
    whole: list[Tensor] = []

    def enter(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        whole.append(inputs[0])
        return (inputs[0][read][None], *inputs[1:])

    hooks = [
        layer.register_forward_pre_hook(enter),
        norm.register_forward_pre_hook(lambda _module, _inputs: (whole.pop(),)),
        projection.register_forward_pre_hook(lambda _module, inputs: (inputs[0][read][None],)),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
