"""`tercet bench`: compare the phases of a PPO step with the limits of the machine, measured in the same run."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import torch

from tercet.config.lm import NetworkConfig
from tercet.lm.models.configs import config_at
from tercet.lm.plan import cost
from tercet.lm.plan.bench import Step, Work, networks_of, ppo_of
from tercet.lm.plan.footprint import footprint
from tercet.lm.plan.hardware import Limits, measured_limits
from tercet.train.device import device_of

SHAPES: dict[str, Work] = {
    "tiny": Work(layers=2, hidden=64, vocab=300),
    "small": Work(layers=4, hidden=256, vocab=50272),
    "opt-125m": Work(),
}


@dataclass(frozen=True)
class Phase:
    """One phase of a step: its seconds, its number of tokens, and the least seconds possible on this machine."""

    seconds: float
    num_tokens: int
    floor_s: float

    @property
    def share(self) -> float:
        """The share of the machine's limit that was reached; 1 is the limit."""
        return self.floor_s / self.seconds


@dataclass(frozen=True)
class Bench:
    """The median times of the phases of a PPO step, and the machine's rates in the same run."""

    work: Work
    limits: Limits
    phases: dict[str, Phase]
    other_cpus: float

    @property
    def whole(self) -> Phase:
        """All phases together."""
        phases = self.phases.values()
        seconds, floor = sum(phase.seconds for phase in phases), sum(phase.floor_s for phase in phases)
        return Phase(seconds, self.phases["train"].num_tokens, floor)

    def as_json(self) -> dict[str, Any]:  # Any: JSON
        """Return the bench as JSON data."""
        return asdict(self) | {"whole": asdict(self.whole)}


def run(work: Work) -> Bench:
    """Run `warmup` steps, then `iters` measured ones; take the better of the machine's rates before and after."""
    config = networks_of(work)
    device = device_of(config.device)
    first = measured_limits(device)
    step = Step(work, config, ppo_of(work))
    rows = [step(index) for index in range(work.warmup + work.iters)][work.warmup :]
    second = measured_limits(device)
    limits = Limits(max(first.flops_per_s, second.flops_per_s), max(first.bytes_per_s, second.bytes_per_s))
    medians = {name: median(row[name] for row in rows) for name in rows[0]}
    drawn, read = work.batch * work.response, work.batch * work.prompt
    tokens = {"generate": drawn, "score": drawn + read, "train": drawn + read}
    keys = {"generate": "gen_s", "score": "score_s", "train": "train_s"}
    least = floors(work, config, limits)
    phases = {name: Phase(medians[keys[name]], tokens[name], least[name]) for name in keys}
    return Bench(work, limits, phases, medians["other_cpus"])


def floors(work: Work, config: NetworkConfig, limits: Limits) -> dict[str, float]:
    """Return the least seconds of each phase on a machine with these rates, by arithmetic or memory traffic."""
    shape = config_at(config.model)
    actor = footprint(config, shape, "policy", learns=True).network
    critic = footprint(config, shape, "score", learns=True).network
    prompts_, rows = [work.prompt] * work.batch, [work.prompt + work.response] * work.batch
    drawn = work.batch * work.response

    def least(costs: Sequence[cost.Cost]) -> float:
        return sum(one.seconds(flops_per_s=limits.flops_per_s, bytes_per_s=limits.bytes_per_s) for one in costs)

    scoring = [
        cost.forward(network, rows, read) for network, read in ((actor, drawn), (critic, drawn), (critic, work.batch))
    ]
    learning = [step for network in (actor, critic) for step in (cost.learn(network, rows, drawn), cost.apply(network))]
    return {
        "generate": least(cost.generate(actor, prompts_, [work.response] * work.batch)),
        "score": least(scoring),
        "train": least(learning),
    }


def table(bench: Bench) -> Iterator[str]:
    """Yield the lines of the bench."""
    work, limits = bench.work, bench.limits
    yield (
        f"one PPO step: {work.batch} prompts of {work.prompt} tokens, {work.response} sampled tokens each, "
        f"{work.layers} layers of {work.hidden}, {torch.get_num_threads()} threads"
    )
    yield (
        f"this machine: {limits.flops_per_s / 1e9:.0f} GFLOP/s in fp32 products, "
        f"{limits.bytes_per_s / 1e9:.1f} GB/s read from memory"
    )
    yield f"{'':<10}{'seconds':>9}{'tokens/s':>10}{'limit, s':>10}{'of the limit':>14}"
    for name, phase in {**bench.phases, "whole": bench.whole}.items():
        rate = phase.num_tokens / phase.seconds
        yield f"{name:<10}{phase.seconds:>9.2f}{rate:>10.0f}{phase.floor_s:>10.2f}{phase.share:>13.0%}"
    if bench.other_cpus > 0.1:
        yield f"other processes used {bench.other_cpus:.1f} CPUs meanwhile: the figures are not reliable"
