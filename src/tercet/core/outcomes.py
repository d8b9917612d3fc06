"""Outcomes of tries from marks and comparisons by a person, who may err."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

_MOST_STEPS, _CONVERGED = 50, 1e-12


def outcomes(
    marks: Float[Tensor, " n"], pairs: Int[Tensor, "m 2"], preferences: Float[Tensor, " m"]
) -> Float[Tensor, " n"]:
    """Compute the outcome of each try from its mark, 1 or -1, and from comparisons of two tries.

    `preferences` are 1 where the second of a pair was better, 0 where the first was, 0.5 where they were equal. Every
    try has a score u with a standard normal prior, is marked good with probability sigmoid(u), and is preferred to
    another with probability sigmoid(u - u') (Bradley and Terry 1952). The outcomes are the most likely scores, in units
    of the score of a try that has only been marked as good: without comparisons they are the marks.
    """
    if not len(pairs):
        return marks
    alone = _scores(torch.ones(1, dtype=torch.float64), pairs[:0], preferences[:0].double())
    return (_scores(marks.double(), pairs, preferences.double()) / alone).to(marks.dtype)


def _scores(
    marks: Float[Tensor, " n"], pairs: Int[Tensor, "m 2"], preferences: Float[Tensor, " m"]
) -> Float[Tensor, " n"]:
    """Maximise the posterior, which is concave, by Newton's method."""
    num = len(marks)
    differences = torch.zeros(len(pairs), num, dtype=marks.dtype)
    differences.scatter_(1, pairs[:, :1], -1.0).scatter_(1, pairs[:, 1:], 1.0)
    scores = torch.zeros(num, dtype=marks.dtype)
    for _ in range(_MOST_STEPS):
        good, preferred = torch.sigmoid(scores), torch.sigmoid(differences @ scores)
        gradient = marks * torch.sigmoid(-marks * scores) + differences.T @ (preferences - preferred) - scores
        weighted = (preferred * (1 - preferred))[:, None] * differences
        curvature = torch.diag(1 + good * (1 - good)) + differences.T @ weighted
        step = torch.linalg.solve(curvature, gradient)
        scores = scores + step
        if step.abs().max() < _CONVERGED:
            break
    return scores
