"""The roles of PPO on language: what is asked of each response, in training and in validation."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from tercet.config.lm import PpoConfig
from tercet.lm.data.examples import Example
from tercet.lm.rollout import (
    Assessment,
    LmActorCritic,
    RefLogprobs,
    assess,
    final_scores,
    kl_per_response,
)
from tercet.lm.sampling.responses import Responses
from tercet.lm.sampling.sampler import Sampler
from tercet.lm.scoring import Score, Scorer
from tercet.train.chance import generator
from tercet.train.ppo.selection import Validation
from tercet.train.ppo.watch import Watched


@dataclass(frozen=True)
class Roles:
    """All roles of PPO, with the sampler of the actor's responses."""

    actor_critic: LmActorCritic
    reference: RefLogprobs
    scorer: Scorer
    sampler: Sampler
    config: PpoConfig
    seed: int
    watched: Mapping[str, Score] = field(default_factory=dict)  # judges of ppo.watch by their names in metrics

    def assess(self, responses: Responses, *, scores: Tensor | None = None, values_learn: bool = False) -> Assessment:
        """Run all roles on the responses; with `values_learn` the values keep their graph, `scores` are known ones."""
        return assess(
            responses,
            self.actor_critic,
            self.reference,
            self.scorer if scores is None else lambda _: scores,
            micro_batch_size=self.config.micro_batch_size,
            values_learn=values_learn,
        )


def validate(roles: Roles, examples: Sequence[Example]) -> Validation:
    """Measure responses to the examples; every call draws the same random numbers.

    The score of an example is the mean over its `ppo.samples_per_eval_prompt` responses.
    """
    scores, kls = [], []
    watched: dict[str, list[Tensor]] = {name: [] for name in roles.watched}
    num = roles.config.samples_per_eval_prompt
    repeated = [example for example in examples for _ in range(num)]

    def by_prompt(parts: list[Tensor]) -> Tensor:
        return torch.cat(parts).view(len(examples), num).mean(1)

    def scored(name: str) -> Tensor:
        return torch.cat(watched[name]).view(len(examples), num).nanmean(1)  # nan is no score

    for responses in roles.sampler.sample_all(repeated, generator(roles.seed, "validation"), title="validation"):
        assessment = roles.assess(responses)
        scores.append(final_scores(responses, assessment, roles.config))
        kls.append(kl_per_response(assessment, responses))
        for name, score in roles.watched.items():
            watched[name].append(score(responses))
    of_prompts = by_prompt(scores)
    return Validation(
        float(of_prompts.mean()),
        of_prompts,
        float(torch.cat(kls).mean()),
        {name: Watched.of(scored(name)) for name in watched},
    )
