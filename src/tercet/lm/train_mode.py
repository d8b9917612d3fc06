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
        few = _tokens(model, _FEW)
        before = torch.get_rng_state()
        off = _difference(_states(model, few, learns=True), _states(model, few, learns=False))
        if not torch.equal(before, torch.get_rng_state()):
            many = _tokens(model, _MANY)
            off = max(off, _difference(_states(model, many, learns=True), _states(model, many, learns=False)))
    if not off <= 1e-3:
        noise = {key: value for key, value in model.config.to_dict().items() if "jitter" in key and value}
        hint = f" (its config has {', '.join(f'{key}={value}' for key, value in noise.items())})" if noise else ""
        raise InputError(
            f"{model.config.model_type} computes other numbers in training than in sampling, off by {off:.3g}{hint}: "
            "PPO would learn from that difference; choose another model"
        )


def _states(model: PreTrainedModel, ids: Int[Tensor, "b t"], *, learns: bool) -> Float[Tensor, "b t d"]:
    return model.train(learns).base_model(ids, use_cache=False).last_hidden_state


def _difference(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max())


def _tokens(model: PreTrainedModel, shape: tuple[int, int]) -> Int[Tensor, "b t"]:
    return (torch.arange(shape[0] * shape[1]) % model.config.vocab_size).view(shape)
