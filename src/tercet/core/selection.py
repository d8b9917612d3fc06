"""How much the best of several measured means overstates the true one (the winner's curse)."""

import torch
from jaxtyping import Float
from torch import Tensor


def expected_shrinkage(
    scores: Float[Tensor, "candidates prompts"], *, num_draws: int, generator: torch.Generator
) -> float:
    """Estimate how much lower the best candidate's mean score will be on new prompts; at least two prompts.

    The candidate with the highest mean was chosen on the same prompts that measured it, so chance helped it. In each
    draw, a random half of the prompts chooses a candidate. On the other half, which had no part in that choice, this
    candidate is compared with the best on all prompts. This is cross-validation of the choice (van Hasselt 2013,
    arXiv:1302.7175), in two folds and repeated. The expected value of the estimate is right if the candidates are
    equally good. Otherwise it is a little too high, because half of the prompts choose worse than all of them. It is 0
    if every half makes the same choice.

    A bootstrap that compares drawn prompts with those left out would be too high by up to sqrt(2): a mean over prompts
    drawn with replacement has twice the variance of the mean over all prompts.
    """
    scores, num = scores.double(), scores.shape[1]
    if num < 2:
        raise ValueError(f"the prompts must be split into two halves: {num} is too few")
    best = scores.mean(1).argmax()
    total = 0.0
    for _ in range(num_draws):
        order = torch.randperm(num, generator=generator)
        choosing, others = scores[:, order[: num // 2]], scores[:, order[num // 2 :]]
        chosen = choosing.mean(1).argmax()
        total += float(others[best].mean() - others[chosen].mean())
    return total / num_draws
