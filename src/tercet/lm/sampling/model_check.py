"""Whether a model can go through the three steps, found on a few tokens before anything is trained."""

import torch

from tercet.errors import FailedError, InputError, first_line
from tercet.lm.batch import pad
from tercet.lm.models.logprobs import response_logprobs
from tercet.lm.models.roles import Policy
from tercet.lm.sampling.generate import generate
from tercet.lm.sampling.sampling_check import TOLERANCE

_LENGTHS = (7, 3)  # of the prompts: rows of one length would hide what padding does
_DRAWN = 4


def check_policy(policy: Policy) -> None:
    """InputError where answers cannot be drawn from the model, or where training would see other log-probabilities.

    FailedError where they are drawn from another distribution (`lm/sampling/sampling_check.py`). Chance is a generator
    of its own, and the policy stays in the mode that it was in.
    """
    name, was_training = type(policy.model).__name__, policy.training
    num_ids = policy.model.config.vocab_size
    prompts = [[token % num_ids for token in range(3, 3 + length)] for length in _LENGTHS]
    chance = torch.Generator().manual_seed(0)
    policy.eval()
    try:
        with torch.no_grad(), policy.autocast():
            out = generate(policy.model, prompts, end_ids=[0], max_tokens=_DRAWN, temperature=1.0, generator=chance)
    except (InputError, FailedError, torch.OutOfMemoryError):
        raise
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:  # a cache it cannot work with
        raise InputError(
            f"answers cannot be sampled from {name}: {first_line(error).rstrip('.')}; choose another model"
        ) from error
    batch = pad(prompts, out.tolist(), pad_id=0).to(policy.model.device)
    with torch.no_grad():
        training = response_logprobs(policy, batch, temperature=1.0).logprobs
    policy.train(was_training)
    off = float((training - out.logprobs).abs().sum() / out.mask.sum())
    if not off <= TOLERANCE[policy.precision]:
        raise InputError(
            f"{name} says other things of a padded batch than of the rows alone (log-probabilities differ by {off:.3g} "
            "a token); choose another model"
        )
