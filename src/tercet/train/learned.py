"""What training changes of a network: its trainable parameters, and buffers that follow the data."""

from torch import Tensor, nn


def learned_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Return the trainable parameters, and the buffers that a part of the module lists in `moving_buffers`, by name.

    Checkpoints, moving averages and the best actor hold these tensors. Everything else is the same at each start.
    """
    found: dict[str, Tensor] = {name: p for name, p in module.named_parameters() if p.requires_grad}
    for path, part in module.named_modules():
        moving: tuple[str, ...] = getattr(part, "moving_buffers", ())
        found |= {f"{path}.{name}" if path else name: part.get_buffer(name) for name in moving}
    return found
