"""Check on a few tokens, before training, that a model can go through the three steps."""

import torch

from tercet.errors import FailedError, InputError, first_line
from tercet.lm.batch import pad
from tercet.lm.models.division import whole_network
from tercet.lm.models.logprobs import response_logprobs
from tercet.lm.models.roles import Policy
from tercet.lm.sampling.generate import generate
from tercet.lm.sampling.sampling_check import TOLERANCE
from tercet.runs.ranks import alone

_LENGTHS = (7, 3)  # tokens of the prompts: with equal lengths there would be no padding
_NUM_SAMPLED = 4  # tokens of each response


def check_policy(policy: Policy) -> None:
    """Raise InputError if responses cannot be sampled, or if padding changes the log-probabilities.

    FailedError if they are sampled from another distribution (`lm/sampling/sampling_check.py`). The check has its own
    random numbers, and leaves the policy in its mode (training or evaluation).
    """
    name, was_training = type(policy.model).__name__, policy.training
    num_ids = policy.model.config.vocab_size
    prompts = [[token % num_ids for token in range(3, 3 + length)] for length in _LENGTHS]
    generator = torch.Generator().manual_seed(0)
    policy.eval()
    whole = whole_network(policy).eval()
    try:
        with alone(), torch.no_grad(), policy.autocast():
            out = generate(
                whole.model,
                prompts,
                end_ids=[0],
                max_tokens=_NUM_SAMPLED,
                temperature=1.0,
                generator=generator,
                static=policy.cuda_graphs,
            )
    except (InputError, FailedError, torch.OutOfMemoryError):
        raise
    except (
        AttributeError,
        LookupError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:  # such as a cache that the model does not support
        raise InputError(
            f"responses cannot be sampled from {name}: {first_line(error).rstrip('.')}; choose another model"
        ) from error
    batch = pad(prompts, out.tolist(), pad_id=0).to(policy.model.device)
    with torch.no_grad():
        training = response_logprobs(policy, batch, temperature=1.0).logprobs
    policy.train(was_training)
    difference = float((training - out.logprobs).abs().sum() / out.mask.sum())
    if not difference <= TOLERANCE[policy.precision]:
        raise InputError(
            f"{name} computes other numbers in a padded batch than for single rows (log-probabilities differ by "
            f"{difference:.3g} per token); choose another model"
        )
