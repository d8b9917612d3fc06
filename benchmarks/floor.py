"""The lower bound of the time of a PPO step: the formulas of `lm/plan/cost.py` with the rates of this machine.

The bound is the sum of max(FLOPs / peak, bytes / bandwidth) over the parts of the work. Peak and bandwidth are the best
values measured in the same run (`lm/plan/hardware.py`).
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from tercet.config.lm import LmConfig
from tercet.lm.models.configs import config_at
from tercet.lm.plan import cost
from tercet.lm.plan.cost import Cost, Network
from tercet.lm.plan.footprint import footprint
from tercet.lm.plan.hardware import Clock, Limits

# CPU seconds of one thread are meaningful on a busy machine too
CLOCKS: dict[str, Clock] = {"wall": time.perf_counter, "cpu": time.process_time}
SAMPLING = ("reading prompts", "decoding", "drawing")
SCORING = ("reference", "values", "scores")


@dataclass(frozen=True)
class Sampled:
    """The number of tokens of each prompt and answer of one step."""

    prompts: Sequence[int]
    answers: Sequence[int]

    @property
    def lengths(self) -> list[int]:
        """Return the lengths of prompt and answer together."""
        return [p + a for p, a in zip(self.prompts, self.answers, strict=True)]

    def live(self, t: int) -> list[int]:
        """Return the number of tokens seen by each row that samples its token `t`, counted from 0."""
        return [p + t for p, a in zip(self.prompts, self.answers, strict=True) if a > t]


def costs_of_step(actor: LmConfig, critic: LmConfig, work: Sampled, *, vocab: int) -> dict[str, list[Cost]]:
    """Return the cost of each phase of a PPO step; reference and reward model have the shapes of actor and critic."""
    policy = footprint(actor, config_at(actor.model), "policy", learns=True).network
    scorer = footprint(critic, config_at(critic.model), "score", learns=True).network
    reading, *decoding = cost.generate(policy, work.prompts, work.answers)
    return {
        "reading prompts": [reading],
        "decoding": decoding,
        "drawing": [Cost(0, 4 * vocab * len(work.live(t))) for t in range(max(work.answers))],
        "reference": [cost.forward(policy, work.lengths, sum(work.answers))],
        "values": [cost.forward(scorer, work.lengths, sum(work.answers))],
        "scores": [cost.forward(scorer, work.lengths, len(work.answers))],
        **_learning("critic", scorer, work.lengths, sum(work.answers)),
        **_learning("actor", policy, work.lengths, sum(work.answers)),
    }


def _learning(role: str, network: Network, lengths: Sequence[int], num_read: int) -> dict[str, list[Cost]]:
    ahead = cost.forward(network, lengths, num_read)
    both = cost.learn(network, lengths, num_read)
    back = Cost(both.flops - ahead.flops, both.bytes - ahead.bytes)
    return {f"{role} forward": [ahead], f"{role} backward": [back], f"{role} optimizer": [cost.apply(network)]}


def least_seconds(costs: Sequence[Cost], limits: Limits) -> float:
    """Return the lower bound of several successive parts."""
    return sum(one.seconds(flops_per_s=limits.flops_per_s, bytes_per_s=limits.bytes_per_s) for one in costs)
