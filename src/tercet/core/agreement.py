"""How far two people agree beyond chance, on plain words."""

from collections import Counter
from collections.abc import Sequence


def cohens_kappa(first: Sequence[str], second: Sequence[str]) -> float | None:
    """Compute Cohen's kappa (1960) of two people's answers to the same questions: (p_o - p_e) / (1 - p_e).

    p_o is the share of equal answers, and p_e the share that is expected of two people who answer by chance, each with
    their own frequencies of the words. None if both always give one and the same word: kappa is not defined then.
    """
    if len(first) != len(second) or not first:
        raise ValueError(f"needs two answers to each question, and at least one: {len(first)} and {len(second)}")
    num = len(first)
    counts, other_counts = Counter(first), Counter(second)
    by_chance = sum(counts[word] * other_counts[word] for word in counts)  # num ** 2 times p_e, exact
    if by_chance == num * num:
        return None
    same = sum(a == b for a, b in zip(first, second, strict=True))
    return (same * num - by_chance) / (num * num - by_chance)
