"""What was drawn against a plain forward: whether the sampler's log-probabilities are those of the model.

A library may swallow the cache that it is given, or place a token elsewhere: every token is then drawn from a wrong
distribution, and nothing else would show it.
"""

import inspect
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from tercet.core.fused_categorical import logprobs_and_entropy
from tercet.errors import FailedError
from tercet.lm.models.adapters import Precision

_MOST = 8  # tokens of a row that are compared
# nats a token, on average; another batch is another rounding
TOLERANCE: dict[Precision, float] = {"fp32": 2e-3, "bf16": 0.3}

_seen: set[tuple[object, ...]] = set()  # the kinds of models that this process has checked


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
    """FailedError where the log-probabilities of the first tokens drawn are not those of a forward without a cache.

    The shortest and the longest prompt are looked at, each alone and without padding. Done once in a process for every
    class, config, kind of layers, precision and `sampler`.
    """
    precision = _precision(model)
    kinds = frozenset(type(module).__qualname__ for module in model.modules())  # adapted or not
    key = (type(model), str(model.config), kinds, precision, model.device.type, sampler)
    if key in _seen:
        return
    lengths = [len(prompt) for prompt in prompts]
    rows = {lengths.index(min(lengths)), lengths.index(max(lengths))}
    found = [_difference(model, prompts[i], ids[i][mask[i]], logprobs[i][mask[i]], temperature) for i in rows]
    off = float(torch.tensor(found).max())  # nan if any is; Python's max may drop it
    if not off <= TOLERANCE[precision]:
        raise FailedError(
            f"sampling from {type(model).__name__} ({sampler}): the log-probabilities of the tokens drawn differ from "
            f"those of a plain forward by {off:.3g} a token, more than {TOLERANCE[precision]:g}: its cache, its "
            "positions or its mask work otherwise than expected; choose another model or version of transformers"
        )
    _seen.add(key)


def _difference(
    model: PreTrainedModel,
    prompt: Sequence[int],
    drawn: Int[Tensor, " t"],
    logprobs: Float[Tensor, " t"],
    temperature: float,
) -> float:
    """Mean of |difference| over the first tokens of a row."""
    drawn, logprobs = drawn[:_MOST], logprobs[:_MOST]
    text = torch.tensor([*prompt, *drawn.tolist()], device=model.device)
    takes_some = "logits_to_keep" in inspect.signature(model.forward).parameters  # all would be many for a long prompt
    some = {"logits_to_keep": len(drawn) + 1} if takes_some else {}
    logits = model(text[None], use_cache=False, **some).logits[0, -len(drawn) - 1 : -1]
    plain = logprobs_and_entropy(logits, drawn, temperature=temperature or 1.0).logprobs
    return float((plain - logprobs).abs().mean())


def _precision(model: PreTrainedModel) -> Precision:
    """That of the matrix products."""
    device = model.device.type
    lowest = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else model.dtype
    return "fp32" if lowest == torch.float32 else "bf16"
