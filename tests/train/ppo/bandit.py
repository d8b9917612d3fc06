"""A bandit with contexts in plain torch: its actor and critic, its rollouts, and runs of the loop on it."""

import json
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tercet.config.ppo import LoopConfig, UpdateConfig
from tercet.runs.folder import RunFolder
from tercet.train.chance import generator
from tercet.train.ppo.learner import Learner
from tercet.train.ppo.loop import Collected, Trained, train
from tercet.train.ppo.selection import Validation
from tercet.train.ppo.watch import NEVER, StopRule, Watched
from tercet.types import ActorOutput, Rollout

NUM_STATES, NUM_ACTIONS = 4, 5


class Bandit:
    """An actor and a critic over states given by number; action (state + step) % 5 is the right one."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        self.policy = nn.Embedding(NUM_STATES, NUM_ACTIONS, dtype=dtype)
        self.baseline = nn.Embedding(NUM_STATES, 1, dtype=dtype)
        for i, table in enumerate((self.policy, self.baseline)):
            table.weight.data = 0.1 * torch.randn(table.weight.shape, generator=generator(0, "table", i)).to(dtype)

    def actor(self, inputs: Mapping[str, Tensor]) -> ActorOutput:
        logprobs = self.policy(inputs["states"]).log_softmax(-1)
        chosen = logprobs.gather(-1, inputs["actions"][..., None])[..., 0]
        return ActorOutput(chosen, -(logprobs.exp() * logprobs).sum(-1))

    def critic(self, inputs: Mapping[str, Tensor]) -> Tensor:
        return self.baseline(inputs["states"])[..., 0]

    def learner(self, config: UpdateConfig) -> Learner:
        return Learner.of(self, self.policy, self.baseline, config)


@torch.no_grad()
def play(bandit: Bandit, index: int, num: int = 32, length: int = 3) -> Rollout:
    """Episodes of 1 to `length` actions, padded behind with junk; each action earns 1 if it is the right one."""
    chance = generator(7, "play", index)
    states = torch.randint(NUM_STATES, (num, length), generator=chance)
    probs = bandit.policy(states).softmax(-1).flatten(0, 1)
    actions = torch.multinomial(probs.float(), 1, generator=chance).view(num, length)
    inputs = {"states": states, "actions": actions}
    lengths = torch.randint(1, length + 1, (num,), generator=chance)
    mask = torch.arange(length)[None] < lengths[:, None]
    values = bandit.critic(inputs).masked_fill(~mask, 99.0)
    last = torch.arange(length)[None] == lengths[:, None] - 1
    return Rollout(
        inputs=inputs,
        logprobs=bandit.actor(inputs).logprobs.masked_fill(~mask, -77.0),
        values=values,
        next_values=values.roll(-1, 1),
        discounts=torch.ones_like(values),
        rewards=(actions == states + 1).to(values.dtype).masked_fill(~mask, 55.0),
        terminated=last,
        truncated=torch.zeros_like(last),
        mask=mask,
    )


def skills(bandit: Bandit) -> Tensor:
    """The probability of the right action in each state."""
    probs = bandit.policy.weight.detach().softmax(-1)
    return torch.stack([probs[state, state + 1] for state in range(NUM_STATES)])


def skill(bandit: Bandit) -> float:
    return float(skills(bandit).mean())


FAST = UpdateConfig(lr=0.05, critic_lr=0.05, epochs=1, num_minibatches=1, micro_batch_size=64, lam=0.9)


def changed(config: UpdateConfig, **settings: Any) -> UpdateConfig:  # Any: what UpdateConfig checks
    return type(config).model_validate(config.model_dump() | settings)


LOOP = LoopConfig(
    lr=0.05,
    critic_lr=0.05,
    epochs=2,
    num_minibatches=2,
    micro_batch_size=8,
    num_updates=7,
    critic_warmup_updates=2,
    eval_every=2,
    checkpoint_every=3,
)


def measured(score: float, kl: float, watched: Mapping[str, Watched] | None = None) -> Validation:
    """A validation on two prompts of this score."""
    return Validation(score, torch.tensor([score, score]), kl, watched or {})


class Killed(Exception):
    """Stands for a kill: nothing after it runs."""


def run(
    path: Path,
    config: LoopConfig,
    bandit: Bandit,
    *,
    kill_in: int = -1,
    validate: Callable[[], Validation] | None = None,
    watch: Callable[[int], None] = lambda index: None,
    stop: StopRule = NEVER,
    finishes: bool = True,
    keep: Collection[int] = (),
    budget: int = 0,
) -> Trained:
    def collect(index: int, carry: Mapping[str, float]) -> Collected:
        if index == kill_in:
            raise Killed
        watch(index)
        rollout = play(bandit, index)
        reward = float(rollout.rewards[rollout.mask].mean()) - carry["price"]
        samples: list[dict[str, str | float]] = [{"prompt": str(index), "response": "an action", "score": reward}]
        now = {"price": carry["price"] * 1.1 + reward / 3, "sampled_tokens": carry["sampled_tokens"] + 10}
        return Collected(rollout, {"score": reward}, samples, now)

    with RunFolder.open(path, config, preset="bandit") as folder, folder.step("ppo", total=8, shown=[]) as step:
        trained = train(
            step,
            bandit.learner(config),
            collect=collect,
            validate=validate or (lambda: Validation(skill(bandit), skills(bandit), 1.0)),
            carry={"price": 0.1, "sampled_tokens": 0},
            config=config,
            samples_every=2,
            seed=3,
            stop=stop,
            keep=keep,
            budget=budget,
        )
        if finishes:
            step.finish({})
    return trained


def rows(path: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
