"""Advantages without a critic: the returns of several answers to one prompt are compared with each other.

The rows of a group are adjacent: with a group size of 4, rows 0 to 3 are the first group.
"""

from jaxtyping import Bool, Float
from torch import Tensor

from tercet.core.precision import full_precision

GROUP_EPSILON = 1e-4  # added to a standard deviation
SAME = 1e-5  # returns that differ by at most this share of the largest one count as equal


def is_equal(returns: Float[Tensor, " b"], *, group_size: int) -> Bool[Tensor, " groups"]:
    """Return True for each group whose returns are all equal, except for rounding: nothing can be learned from it."""
    groups = _groups(returns, group_size)
    return groups.amax(1) - groups.amin(1) <= SAME * groups.abs().amax(1)


def deviations(returns: Float[Tensor, " b"], *, group_size: int) -> Float[Tensor, " b"]:
    """Compute R - mean(R) over each group (Dr. GRPO, Liu et al. 2025, arXiv:2503.20783); 0 in a group of equals."""
    groups = _groups(returns, group_size)
    differences = groups - groups.mean(1, keepdim=True)
    return differences.masked_fill(is_equal(returns, group_size=group_size)[:, None], 0.0).flatten()


def leave_one_out(returns: Float[Tensor, " b"], *, group_size: int) -> Float[Tensor, " b"]:
    """Compute R minus the mean of the others in its group (RLOO, Ahmadian et al. 2024, arXiv:2402.14740).

    It is G / (G - 1) times the deviation from the mean of all G.
    """
    return deviations(returns, group_size=group_size) * (group_size / (group_size - 1))


def standardised(returns: Float[Tensor, " b"], *, group_size: int) -> Float[Tensor, " b"]:
    """Compute (R - mean(R)) / (std(R) + 1e-4) over each group (GRPO, Shao et al. 2024, arXiv:2402.03300).

    The variance has the divisor G - 1, as in TRL and verl.
    """
    spread = _groups(returns, group_size).std(1, keepdim=True) + GROUP_EPSILON
    groups = _groups(deviations(returns, group_size=group_size), group_size)
    return (groups / spread).flatten()


def _groups(returns: Tensor, group_size: int) -> Tensor:
    if group_size < 2 or len(returns) % group_size:
        raise ValueError(f"{len(returns)} returns are not groups of {group_size}; a group needs at least 2 rows")
    return full_precision(returns).detach().view(-1, group_size)
