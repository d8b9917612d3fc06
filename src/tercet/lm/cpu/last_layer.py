"""Compute the last layer after its attention only for tokens whose state is read.

No other token attends to the output of the last layer. PPO reads it only at response tokens, and the reward model only
at the end of a row. Output projection, norm and MLP are skipped for all other tokens.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from jaxtyping import Bool
from torch import Tensor, nn
from transformers import PreTrainedModel

from tercet.lm.cpu.architectures import fast_paths


def layers_of(tree: nn.Module, num_layers: int) -> nn.ModuleList:
    """Return the transformer's list of layers, whose name depends on the architecture."""
    return next(m for m in tree.modules() if isinstance(m, nn.ModuleList) and len(m) == num_layers)


def can_be_narrowed(model: PreTrainedModel) -> bool:
    """Return True if `narrowed` supports the model.

    Gradient checkpointing is not supported: the backward pass would recompute the last layer for all tokens.
    """
    norm_first = getattr(model.config, "do_layer_norm_before", True)  # OPT-350M has post-norm layers
    paths = fast_paths(model)
    if paths is None or paths.attention_ends is None or not norm_first:
        return False
    return not getattr(_last_layer(model), "gradient_checkpointing", False)


def _last_layer(model: PreTrainedModel) -> nn.Module:
    return layers_of(model.base_model, model.config.num_hidden_layers)[-1]


@contextmanager
def narrowed(model: PreTrainedModel, read: Bool[Tensor, "b length"]) -> Iterator[None]:
    """Make forward passes over (b, length) tokens return the last states only where `read` is True, as one row (1, n).

    Attention gets the states of all tokens; the residual and everything after attention only those that are read.
    Only for models that `can_be_narrowed`.
    """
    paths = fast_paths(model)
    assert paths is not None and paths.attention_ends is not None  # can_be_narrowed
    layer = _last_layer(model)
    norm, projection = (layer.get_submodule(name) for name in paths.attention_ends)
    all_states: list[Tensor] = []

    def enter(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        all_states.append(inputs[0])
        return (inputs[0][read][None], *inputs[1:])

    hooks = [
        layer.register_forward_pre_hook(enter),
        norm.register_forward_pre_hook(lambda _module, _inputs: (all_states.pop(),)),
        projection.register_forward_pre_hook(lambda _module, inputs: (inputs[0][read][None],)),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
