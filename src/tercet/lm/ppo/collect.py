"""Rollouts of PPO: prompts are drawn, the actor answers, and all roles look at the answers."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from tercet.core.kl import adapted_kl_coef
from tercet.lm.data.batches import mixed_pass
from tercet.lm.data.examples import Example
from tercet.lm.data.splits import Sets, flat
from tercet.lm.ppo.redraws import draw_groups
from tercet.lm.ppo.roles import Roles
from tercet.lm.ppo.self_check import check, check_engine
from tercet.lm.rollout import (
    build,
    rewarded,
    rollout_metrics,
    text_metrics,
)
from tercet.lm.sampling.responses import Responses
from tercet.lm.scoring import Tally
from tercet.runs.clock import Stopwatch
from tercet.train.chance import generator
from tercet.train.ppo.loop import Collected
from tercet.train.ppo.update import takes_one_step

NUM_SAMPLES = 4  # responses of a rollout that are written to samples.jsonl


@dataclass(frozen=True)
class Collect:
    """Collect rollouts on the training prompts; the index alone determines prompts and random numbers."""

    roles: Roles
    prompts: Sets
    weights: Mapping[str, float]  # how often a pass over the prompts repeats each set

    def __call__(self, index: int, carry: Mapping[str, float]) -> Collected:
        """Sample responses to a batch of prompts and build the rollout; `carry` holds the current kl_coef."""
        roles, ppo, kl_coef = self.roles, self.roles.config, carry["kl_coef"]
        tally, stopwatch = Tally(roles.scorer), Stopwatch()
        score, num_tokens = stopwatch.timed(tally), list[int]()

        def sample(attempt: int = 0) -> Responses:
            responses = self._sample(index, attempt)
            num_tokens.append(int(responses.batch.response_mask.sum()))
            return responses

        if ppo.compares_groups:
            drawn = draw_groups(
                sample,
                score,
                lambda responses, scores: rewarded(scores, responses.ended, ppo),
                group_size=ppo.group_size,
                max_redraws=ppo.max_redraws,
            )
            responses, assessment = drawn.responses, roles.assess(drawn.responses, scores=drawn.scores)
        else:
            drawn, responses = None, sample()
            learns = takes_one_step(ppo, len(responses.texts))
            assessment = roles.assess(responses, scores=score(responses), values_learn=learns)
        rollout = build(responses, assessment, ppo, kl_coef=kl_coef)
        metrics = rollout_metrics(responses, assessment, rollout, ppo, kl_coef=kl_coef)
        if responses.by_engine:
            check_engine(metrics["sampler_mismatch"], roles.actor_critic)
        metrics |= text_metrics(responses) | tally.metrics | (drawn.metrics if drawn else {})
        if ppo.kl_target:
            kl_coef = adapted_kl_coef(
                kl_coef, metrics["kl"], target=ppo.kl_target, num_samples=len(responses.texts), horizon=ppo.kl_horizon
            )
        now = {"kl_coef": kl_coef}
        if ppo.max_sampled_tokens:
            now["sampled_tokens"] = metrics["sampled_tokens"] = carry["sampled_tokens"] + sum(num_tokens)
        samples = [
            {"prompt": prompt, "response": text, "score": float(score)}
            for prompt, text, score in zip(responses.prompts, responses.texts, assessment.scores, strict=True)
        ]
        tensors = {
            "ids": responses.batch.ids,
            "prompt_lengths": responses.batch.prompt_lengths,
            "ended": responses.ended,
            "scores": assessment.scores,
            "kl_coef": torch.tensor(carry["kl_coef"], dtype=torch.float64),
        }
        seconds = {"reward_seconds": stopwatch.seconds}
        return Collected(rollout, metrics, samples[:NUM_SAMPLES], now, tensors, seconds)

    def self_check(self, *, at_reference: bool = True) -> dict[str, float]:
        """Check a small rollout of the untrained actor, which may be the reference; FailedError if a check fails."""
        roles, ppo = self.roles, self.roles.config
        few = self._batch(0)[: max(2, ppo.micro_batch_size)]
        responses = roles.sampler.sample(few, generator(roles.seed, "self-check"))
        assessment = roles.assess(responses)
        return check(responses, assessment, roles.actor_critic, roles.reference, ppo, at_reference=at_reference)

    def _sample(self, index: int, attempt: int = 0) -> Responses:
        """Sample the responses of a rollout; another attempt has other prompts and random numbers."""
        names = ("redraw", attempt) if attempt else ()
        chance = generator(self.roles.seed, "rollout", index, *names)
        return self.roles.sampler.sample(self._batch(index, *names), chance)

    def _batch(self, index: int, *names: str | int) -> list[Example]:
        """Return the index-th batch of an endless stream; every pass over the prompts has its own order.

        Each prompt is repeated for its group. Other names give another stream.
        """
        examples, group_size = flat(self.prompts), self.roles.config.group_size
        batch_size = self.roles.config.batch_size // group_size

        def order_of(pass_number: int) -> list[int]:
            return mixed_pass(self.prompts, self.weights, generator(self.roles.seed, "prompts", pass_number, *names))

        num = len(order_of(0))  # the same in every pass
        positions = range(index * batch_size, (index + 1) * batch_size)
        orders = {number: order_of(number) for number in {position // num for position in positions}}
        chosen = [examples[orders[position // num][position % num]] for position in positions]
        return [example for example in chosen for _ in range(group_size)]
