"""Direct preference optimisation: the policy itself is the reward model.

The policy that maximises a reward minus beta times the KL from the reference has the log-ratio reward / beta, up to a
term that depends on the prompt alone. So beta times the log-ratio is the reward of a response, as far as it is compared
with others to the same prompt (Rafailov et al. 2023, arXiv:2305.18290, eq. 5 and 6). DPO's loss (eq. 7) is
`core/losses.py::pairwise_loss` of these rewards.
"""

from jaxtyping import Bool, Float
from torch import Tensor

from tercet.core.kl import k1


def implicit_rewards(
    logprobs: Float[Tensor, "b t"],
    ref_logprobs: Float[Tensor, "b t"],
    mask: Bool[Tensor, "b t"],
    *,
    beta: float,
) -> Float[Tensor, " b"]:
    """Compute beta * log(policy / reference) of each response, summed over the tokens at which the mask is True."""
    return beta * k1(logprobs, ref_logprobs).masked_fill(~mask, 0.0).sum(1)
