"""Whether a model says in training what it says in sampling: no routing by chance, no noise, no dropout left on."""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from tercet.errors import InputError
from tercet.train.chance import undisturbed

_FEW, _MANY = (2, 8), (64, 8)  # rows and tokens of a row


@torch.no_grad()
def check_train_mode(model: PreTrainedModel) -> None:
    """InputError where the states of a model that learns are not those of evaluation; it is left in evaluation mode.

    PPO's ratio compares both. A model that draws random numbers is looked at with more tokens, since chance may change
    little in a few (a router that chooses between two experts that are nearly even).
    """
    with undisturbed():
        before = torch.get_rng_state()
        differences = [_difference(model, _FEW)]
        if not torch.equal(before, torch.get_rng_state()):
            differences.append(_difference(model, _MANY))
    if not all(off <= 1e-3 for off in differences):  # nan is no small difference
        off = differences[-1]
        noise = {key: value for key, value in model.config.to_dict().items() if "jitter" in key and value}
        hint = f" (its config has {', '.join(f'{key}={value}' for key, value in noise.items())})" if noise else ""
        raise InputError(
            f"{model.config.model_type} computes other numbers in training than in sampling, off by {off:.3g}{hint}: "
            "PPO would learn from that difference; choose another model"
        )


def _difference(model: PreTrainedModel, shape: tuple[int, int]) -> float:
    """How far the states in training are from those in evaluation, relative to the largest of them."""
    ids = (torch.arange(shape[0] * shape[1]) % model.config.vocab_size).view(shape)
    a, b = (_states(model, ids, learns=learns) for learns in (True, False))
    return float((a - b).abs().max() / b.abs().max())


def _states(model: PreTrainedModel, ids: Int[Tensor, "b t"], *, learns: bool) -> Float[Tensor, "b t d"]:
    return model.train(learns).base_model(ids, use_cache=False).last_hidden_state
