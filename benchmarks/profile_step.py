"""Profile a PPO step: the time of each phase and its lower bound, as a table, a picture and one JSON line.

    python benchmarks/profile_step.py --lengths fixed --batch 8 --picture docs/profile.png

The roles are timed where the pipeline calls them. In sampling, the time of the prompts is that of one first token,
drawing is timed separately on logits of the same shape, and decoding is the rest. In training, `backward` is everything
except forward and optimizer, including losses and gradient clipping.
"""

import argparse
import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from statistics import fmean
from typing import TypeVar

import torch
from floor import CLOCKS, SAMPLING, SCORING, Clock, Sampled, costs_of_step, least_seconds
from matplotlib.figure import Figure
from ppo_step import config_of, step_of
from work import critic_shape, most_tokens, parser, prompts, shape

from tercet.core.categorical import sample
from tercet.lm.plan.bench import Step
from tercet.lm.plan.hardware import measured_limits
from tercet.lm.rollout import LmActorCritic
from tercet.train.chance import generator
from tercet.train.ppo.update import update

T = TypeVar("T")


class Stopwatch:
    """Seconds by name, and the time at which each name was last stopped."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.seconds: dict[str, float] = defaultdict(float)
        self.ends: dict[str, float] = {}

    @contextmanager
    def of(self, name: str) -> Iterator[None]:
        """Add the time of the `with` block."""
        start = self.clock()
        yield
        self.ends[name] = self.clock()
        self.seconds[name] += self.ends[name] - start

    def watched(self, name: str, call: Callable[..., T]) -> Callable[..., T]:
        """Return the function with its time added to that name."""

        def timed(*args: object, **named: object) -> T:
            with self.of(name):
                return call(*args, **named)

        return timed


class WatchedActorCritic:
    """A timed actor and critic; the phase determines which forward pass is counted."""

    def __init__(self, inner: LmActorCritic, watch: Stopwatch) -> None:
        self.inner, self.watch = inner, watch
        self.policy, self.value_model = inner.policy, inner.value_model
        self.training = False

    def actor(self, inputs: Mapping[str, torch.Tensor]) -> object:
        """Log-probabilities and entropy."""
        with self.watch.of("actor forward"):
            return self.inner.actor(inputs)

    def critic(self, inputs: Mapping[str, torch.Tensor]) -> object:
        """Values."""
        with self.watch.of("critic forward" if self.training else "values"):
            return self.inner.critic(inputs)


def profiled(step: Step, index: int, clock: Clock) -> tuple[dict[str, float], Sampled]:
    """Return the seconds of every phase of one step, and its number of tokens."""
    watch, asked = Stopwatch(clock), prompts(step.work, index)
    with watch.of("first token"):
        step.sample(asked, index, most=1)
    with watch.of("sampling"):
        drawn = step.sample(asked, index, most=most_tokens(step.work))
    work = Sampled([len(prompt) for prompt in asked], drawn.mask.sum(1).tolist())
    drawing = sum(_drawing(len(work.live(t)), step.work.vocab, clock) for t in range(max(work.answers)))
    actor_critic, reference, scorer = step.actor_critic, step.reference, step.scorer
    seen = WatchedActorCritic(actor_critic, watch)
    step.actor_critic = seen
    step.reference = watch.watched("reference", reference)
    step.scorer = watch.watched("scores", scorer)
    rollout = step.score(asked, drawn)
    seen.training, training_starts = True, clock()
    _update(step, seen, rollout, index, watch)
    step.actor_critic, step.reference, step.scorer = actor_critic, reference, scorer
    seconds = {
        "reading prompts": watch.seconds["first token"],
        "decoding": watch.seconds["sampling"] - watch.seconds["first token"] - drawing,
        "drawing": drawing,
        **{name: watch.seconds[name] for name in SCORING},
    }
    start = training_starts
    for role in sorted(("critic", "actor"), key=lambda role: watch.ends[f"{role} optimizer"]):
        forward, optimizer = watch.seconds[f"{role} forward"], watch.seconds[f"{role} optimizer"]
        end = watch.ends[f"{role} optimizer"]
        seconds |= {f"{role} forward": forward, f"{role} backward": end - start - forward - optimizer}
        seconds |= {f"{role} optimizer": optimizer}
        start = end
    return seconds, work


def _update(step: Step, seen: WatchedActorCritic, rollout: object, index: int, watch: Stopwatch) -> None:
    """Run one update in which the roles and the optimizers are timed."""
    inner = step.learner
    optimizers = {"actor": inner.actor_optimizer, "critic": inner.critic_optimizer}
    plain = {role: optimizer.step for role, optimizer in optimizers.items()}
    for role, optimizer in optimizers.items():
        optimizer.step = watch.watched(f"{role} optimizer", plain[role])
    update(replace(inner, actor_critic=seen), rollout, step.ppo, generator=generator(1, index))
    for role, optimizer in optimizers.items():
        optimizer.step = plain[role]


@lru_cache
def _drawing(num_rows: int, vocab: int, clock: Clock) -> float:
    """Return the seconds to draw one token for that many rows."""
    logits, uniforms = torch.randn(num_rows, vocab), torch.rand(num_rows)
    sample(logits, uniforms, temperature=1.0)
    start = clock()
    for _ in range(5):
        sample(logits, uniforms, temperature=1.0)
    return (clock() - start) / 5


def draw(seconds: Mapping[str, float], floors: Mapping[str, float], title: str, unit: str, path: Path) -> None:
    """Draw a bar for each phase with its lower bound and the ratio of the two."""
    names = list(seconds)
    figure = Figure(figsize=(9, 5.5), layout="constrained")
    axes = figure.subplots()
    colors = ["#4477aa" if n in SAMPLING else "#ccbb44" if n in SCORING else "#ee6677" for n in names]
    places = range(len(names))
    axes.barh(places, [seconds[n] for n in names], color=colors, height=0.72)
    axes.barh(places, [floors[n] for n in names], color="#222222", height=0.24)
    widest = max(seconds.values())
    for place, name in enumerate(names):
        times = f" ({seconds[name] / floors[name]:.1f} x)" if floors[name] > 0.005 * widest else ""
        axes.text(max(seconds[name], floors[name]) + 0.01 * widest, place, f"{seconds[name]:.2f} s{times}", va="center")
    axes.set_yticks(places, names)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.25 * widest)
    axes.set_xlabel(f"{unit}; black: the floor, and in brackets how many times the floor")
    axes.set_title(title)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)


def table(seconds: Mapping[str, float], floors: Mapping[str, float]) -> str:
    """Return a Markdown table with a row for each phase and for the whole step."""
    whole = {"whole": (sum(seconds.values()), sum(floors.values()))}
    rows = {name: (seconds[name], floors[name]) for name in seconds} | whole
    lines = ["| phase | seconds | floor | times |", "|---|---|---|---|"]
    return "\n".join([*lines, *(f"| {n} | {s:.3f} | {f:.3f} | {s / f:.1f} |" for n, (s, f) in rows.items())])


def asked_for() -> argparse.Namespace:
    """Return the settings."""
    command = parser(__doc__ or "")
    command.add_argument("--picture", type=Path, default=None, help="file to draw into, such as docs/profile.png")
    command.add_argument(
        "--clock", choices=list(CLOCKS), default="wall", help="cpu, with --threads 1: on a busy machine"
    )
    return command.parse_args()


def main() -> None:
    """Run `--warmup` steps, then profile `--iters` steps and print the means."""
    settings = asked_for()
    torch.set_num_threads(settings.threads)
    clock = CLOCKS[settings.clock]
    limits = measured_limits(torch.device("cpu"), clock=clock)
    step = step_of(settings)
    for index in range(settings.warmup):
        step(index)
    actor, critic = (config_of(settings, of(settings)) for of in (shape, critic_shape))
    rows, floor_rows, num_tokens = [], [], 0
    for index in range(settings.iters):
        taken, work = profiled(step, settings.warmup + index, clock)
        costs = costs_of_step(actor, critic, work, vocab=settings.vocab)
        # if the critic is trained on the rollout's values, its forward pass is that of "values"
        rows.append({name: value for name, value in taken.items() if value})
        floor_rows.append({name: least_seconds(costs[name], limits) for name in rows[-1]})
        num_tokens += sum(work.lengths)
    seconds, floors = ({name: fmean(row[name] for row in of) for name in of[0]} for of in (rows, floor_rows))
    print(table(seconds, floors))
    if settings.picture is not None:
        mean = num_tokens // settings.iters
        title = f"One PPO step, {settings.lengths} lengths: {settings.batch} prompts, {mean} tokens"
        unit = "CPU seconds" if settings.clock == "cpu" else "seconds"
        draw(seconds, floors, title, unit, settings.picture)
    found = {"seconds": seconds, "floor": floors, "gflops_per_s": limits.flops_per_s / 1e9}
    found |= {"gb_per_s": limits.bytes_per_s / 1e9, "num_tokens": num_tokens / settings.iters}
    print(json.dumps({"name": "profile"} | found | {k: str(v) for k, v in vars(settings).items()}))


if __name__ == "__main__":
    main()
