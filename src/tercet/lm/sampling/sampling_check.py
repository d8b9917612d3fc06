"""Compare the sampler's log-probabilities with those of a plain forward pass.

A model may ignore the cache that it is given, or give a token a wrong position. Every token is then drawn from a wrong
distribution, and no other check would notice.
"""

import inspect
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from tercet.core.fused_categorical import logprobs_and_entropy
from tercet.errors import FailedError
from tercet.lm.models.adapters import DTYPES, Precision

_MOST = 8  # tokens of a row that are compared
# mean difference in nats per token; another batch has other rounding
TOLERANCE: dict[Precision, float] = {"fp32": 2e-3, "bf16": 0.3, "fp16": 0.05}

_checked: set[tuple[object, ...]] = set()  # the kinds of models that this process has checked


def check_once(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    ids: Int[Tensor, "b t"],
    logprobs: Float[Tensor, "b t"],
    mask: Bool[Tensor, "b t"],
    *,
    temperature: float,
    sampler: str,
) -> None:
    """Raise FailedError if the log-probabilities of the first tokens differ from those of a forward without a cache.

    The shortest and the longest prompt are checked, each alone and without padding. Each combination of class, config,
    kinds of layers, precision and `sampler` is checked once per process.
    """
    precision = _precision(model)
    kinds = frozenset(type(module).__qualname__ for module in model.modules())  # adapted or not
    key = (type(model), str(model.config), kinds, precision, model.device.type, sampler)
    if key in _checked:
        return
    check(model, prompts, ids, logprobs, mask, temperature=temperature, sampler=sampler)
    _checked.add(key)


def check(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    ids: Int[Tensor, "b t"],
    logprobs: Float[Tensor, "b t"],
    mask: Bool[Tensor, "b t"],
    *,
    temperature: float,
    sampler: str,
) -> None:
    """Make this comparison, whether it has been made before or not."""
    precision, lengths = _precision(model), [len(prompt) for prompt in prompts]
    rows = {lengths.index(min(lengths)), lengths.index(max(lengths))}
    differences = [_difference(model, prompts[i], ids[i][mask[i]], logprobs[i][mask[i]], temperature) for i in rows]
    difference = float(torch.tensor(differences).max())  # nan if any is nan; Python's max may drop it
    if not difference <= TOLERANCE[precision]:
        raise FailedError(
            f"sampling from {type(model).__name__} ({sampler}): the log-probabilities of the tokens drawn differ from "
            f"those of a plain forward by {difference:.3g} a token, more than {TOLERANCE[precision]:g}: its cache, its "
            "positions or its mask work differently than expected; choose another model or version of transformers"
        )


def _difference(
    model: PreTrainedModel,
    prompt: Sequence[int],
    drawn: Int[Tensor, " t"],
    logprobs: Float[Tensor, " t"],
    temperature: float,
) -> float:
    """Return the mean absolute difference over the first tokens of a row."""
    drawn, logprobs = drawn[:_MOST], logprobs[:_MOST]
    text = torch.tensor([*prompt, *drawn.tolist()], device=model.device)
    takes_some = (
        "logits_to_keep" in inspect.signature(model.forward).parameters
    )  # the logits of all tokens would be large for a long prompt
    some = {"logits_to_keep": len(drawn) + 1} if takes_some else {}
    logits = model(text[None], use_cache=False, **some).logits[0, -len(drawn) - 1 : -1]
    plain = logprobs_and_entropy(logits, drawn, temperature=temperature or 1.0).logprobs
    return float((plain - logprobs).abs().mean())


def _precision(model: PreTrainedModel) -> Precision:
    """Return the precision of the matrix products."""
    device = model.device.type
    lowest = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else model.dtype
    for precision, dtype in DTYPES.items():
        if dtype == lowest:
            return precision
    return "fp32"
