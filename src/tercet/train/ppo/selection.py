"""Which actor PPO keeps: the best on validation prompts or starts, and how much of its score is chance."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from tercet.core.selection import expected_shrinkage
from tercet.train.chance import generator
from tercet.train.ppo.watch import Scores, Watched

NUM_DRAWS = 1000  # the estimate then varies by a few per cent between seeds


@dataclass(frozen=True)
class Validation:
    """The actor's score on held-out prompts or starts, its KL from the reference, and watched scores by name."""

    score: float
    scores: Float[Tensor, " n"]  # on each prompt or start; their mean is `score`, except for rounding
    kl: float
    watched: Mapping[str, Watched] = field(default_factory=dict)

    @property
    def watched_scores(self) -> dict[str, Scores]:
        """The watched scores of each prompt."""
        return {name: watched.scores for name, watched in self.watched.items()}

    @property
    def metrics(self) -> dict[str, float]:
        """The metrics of a row."""
        errors = {f"ppo/watch_error/{name}": watched.error for name, watched in self.watched.items()}
        means = {f"ppo/watch/{name}": watched.mean for name, watched in self.watched.items()}
        return {"ppo/validation_score": self.score, "ppo/validation_kl": self.kl} | means | errors


@dataclass(frozen=True)
class Best:
    """The update with the best validation score within the KL bound; update 0 is the start."""

    update: int
    score: float
    kl: float


@dataclass(frozen=True)
class Shrinkage:
    """How much of the best validation score is chance: about this much is lost on new prompts or starts.

    It is the best of `num_candidates` means, each over the same `num_scores` prompts or starts.
    """

    expected_shrinkage: float
    num_candidates: int
    num_scores: int

    @classmethod
    def of(cls, candidates: Sequence[Sequence[float]], *, seed: int) -> "Shrinkage | None":
        """Estimate it from the scores of every actor that could be kept; None if there is one score for each."""
        num = len(candidates[0])
        if num < 2:
            return None
        scores = torch.tensor(candidates, dtype=torch.float64)
        chance = generator(seed, "expected shrinkage")
        return cls(expected_shrinkage(scores, num_draws=NUM_DRAWS, generator=chance), len(candidates), num)
