"""Check that a model computes the same in training as in sampling: no random routing, no noise, no dropout."""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from tercet.errors import InputError
from tercet.train.chance import undisturbed

_FEW, _MANY = (2, 8), (64, 8)  # shapes of batches: rows and tokens per row


@torch.no_grad()
def check_train_mode(model: PreTrainedModel) -> None:
    """Raise InputError if the hidden states in training mode differ from those in evaluation mode.

    PPO's ratio compares the two. A model that draws random numbers is checked again with more tokens, because a few
    tokens may show little of it (such as a router between two experts of nearly equal weight). The model is left in
    evaluation mode.
    """
    with undisturbed():
        before = torch.get_rng_state()
        differences = [_difference(model, _FEW)]
        if not torch.equal(before, torch.get_rng_state()):
            differences.append(_difference(model, _MANY))
    if not all(off <= 1e-3 for off in differences):  # also catches nan
        off = differences[-1]
        noise = {key: value for key, value in model.config.to_dict().items() if "jitter" in key and value}
        hint = f" (its config has {', '.join(f'{key}={value}' for key, value in noise.items())})" if noise else ""
        raise InputError(
            f"{model.config.model_type} computes other numbers in training than in sampling{hint}, with a relative "
            f"difference of {off:.3g}: PPO would learn from that difference; choose another model"
        )


def _difference(model: PreTrainedModel, shape: tuple[int, int]) -> float:
    """Return the largest difference of the states in the two modes, relative to the largest state."""
    ids = (torch.arange(shape[0] * shape[1]) % model.config.vocab_size).view(shape)
    a, b = (_states(model, ids, learns=learns) for learns in (True, False))
    return float((a - b).abs().max() / b.abs().max())


def _states(model: PreTrainedModel, ids: Int[Tensor, "b t"], *, learns: bool) -> Float[Tensor, "b t d"]:
    return model.train(learns).base_model(ids, use_cache=False).last_hidden_state
