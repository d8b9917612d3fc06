"""The relatives of PPO that have no critic, on a bandit with contexts."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.on_ranks import on_ranks
from tests.train.ppo.bandit import FAST, LOOP, Bandit, Killed, changed, play, rows, skill, skills
from torch import Tensor
from torch.optim import SGD

from tercet.config.ppo import SETTINGS, LoopConfig, UpdateConfig
from tercet.runs.folder import RunFolder
from tercet.train.chance import generator
from tercet.train.ema import learning_state
from tercet.train.ppo.learner import Learner
from tercet.train.ppo.loop import Collected, Trained, train
from tercet.train.ppo.selection import Validation
from tercet.train.ppo.update import update
from tercet.types import ActorOutput, Rollout

GROUPED = changed(FAST, algorithm="rloo", group_size=8, whiten_advantages=False)


CRITIC_FREE = ["rloo", "grpo", "dr_grpo", "dapo", "gspo", "reinforce++"]


def of_algorithm(name: str, **settings: Any) -> UpdateConfig:  # Any: what UpdateConfig checks
    given = {"lr": 0.05, "epochs": 1, "num_minibatches": 1, "micro_batch_size": 64, "algorithm": name}
    return UpdateConfig.model_validate(given | settings)


@torch.no_grad()
def play_groups(bandit: Bandit, index: int, *, num: int = 64, group_size: int = 8, length: int = 1) -> Rollout:
    """Groups of episodes from the same states, without values."""
    plain = play(bandit, index, num=num, length=length)
    states = plain.inputs["states"][::group_size].repeat_interleave(group_size, 0)
    logprobs = bandit.policy(states).log_softmax(-1)
    chance = generator(8, "actions", index)
    actions = torch.multinomial(logprobs.exp().flatten(0, 1).float(), 1, generator=chance).view(states.shape)
    return replace(
        plain,
        inputs={"states": states, "actions": actions},
        logprobs=logprobs.gather(-1, actions[..., None])[..., 0].masked_fill(~plain.mask, -77.0),
        rewards=(actions == states + 1).to(logprobs.dtype).masked_fill(~plain.mask, 55.0),
        values=None,
        next_values=None,
    )


def without_critic(bandit: Bandit, config: UpdateConfig) -> Learner:
    return Learner.of(bandit, bandit.policy, None, config)


@pytest.mark.parametrize("name", CRITIC_FREE)
def test_every_relative_learns_the_right_action_without_a_critic(name: str) -> None:
    bandit, config = Bandit(), of_algorithm(name, epochs=2, kl_penalty="none")
    learner = without_critic(bandit, config)
    for index in range(40):
        seen = update(learner, play_groups(bandit, index), config, generator=generator(0, "minibatches", index))
    assert skill(bandit) > 0.8
    assert not {"critic_loss", "critic_grad_norm", "explained_variance", "value", "return"} & seen.keys()
    assert list(learner.modules) == list(learner.optimizers) == ["actor"]


@pytest.mark.parametrize("name", CRITIC_FREE)
def test_the_first_loss_of_a_relative_is_0_and_its_ratio_1(name: str) -> None:
    bandit, config = Bandit(), of_algorithm(name, kl_penalty="none")
    seen = update(without_critic(bandit, config), play_groups(bandit, 0), config, generator=generator(0))
    assert abs(seen["actor_loss"]) < 1e-6 and seen["clip_fraction"] == 0.0 and seen["actor_grad_norm"] > 1e-4


def moved(config: UpdateConfig, rollout: Rollout, *, away: float = 0.0) -> tuple[Tensor, Tensor]:
    """The steepest step from the policy of the rollout, or from one that has moved away, and where it began."""
    bandit = Bandit(torch.float64)
    bandit.policy.weight.data += away * torch.randn(4, 5, generator=generator(1), dtype=torch.float64)
    before = learning_state(bandit.policy)["weight"]
    learner = Learner(bandit, bandit.policy, None, SGD([bandit.policy.weight], 1.0), None)
    update(learner, rollout, config, generator=generator(0))
    return before - bandit.policy.weight.detach(), before


@pytest.mark.parametrize(
    ("name", "kl_penalty"),
    [*((name, "none") for name in CRITIC_FREE), *(("grpo", kind) for kind in ("k2", "k3", "k3_weighted"))],
)
def test_the_gradient_of_every_relative_is_that_of_its_formula(name: str, kl_penalty: str) -> None:
    """An independent version: loops over answers and tokens, in double precision, on a rollout of an older policy."""
    config = of_algorithm(
        name, group_size=4, kl_penalty=kl_penalty, max_grad_norm=1e9, max_redraws=0, micro_batch_size=3
    )
    rollout = play_groups(Bandit(torch.float64), 0, num=8, group_size=4, length=3)
    ref = rollout.logprobs + 0.1 * torch.randn(8, 3, generator=generator(2), dtype=torch.float64)
    rollout = replace(rollout, ref_logprobs=ref, kl_coef=0.3, max_length=7)
    found, start = moved(config, rollout, away=0.3)

    pi = start.clone().requires_grad_()
    lengths = rollout.mask.sum(1).tolist()
    ends = [sum(rollout.rewards[row, :n].tolist()) for row, n in enumerate(lengths)]
    to_go = {(row, t): sum(rollout.rewards[row, t:n].tolist()) for row, n in enumerate(lengths) for t in range(n)}
    mean = sum(to_go.values()) / len(to_go)
    std = (sum((x - mean) ** 2 for x in to_go.values()) / len(to_go)) ** 0.5
    loss = torch.zeros((), dtype=torch.float64)
    for row, num in enumerate(lengths):
        group = ends[row // 4 * 4 : row // 4 * 4 + 4]
        centre = sum(group) / 4
        spread = (sum((x - centre) ** 2 for x in group) / 3) ** 0.5 + 1e-4
        scale = {"rloo": 4 / 3, "dr_grpo": 1.0}.get(name, 1 / spread)
        new = [
            pi[rollout.inputs["states"][row, t]].log_softmax(-1)[rollout.inputs["actions"][row, t]] for t in range(num)
        ]
        logs = [new[t] - rollout.logprobs[row, t] for t in range(num)]
        terms = []
        for t in range(num):
            ratio = logs[t].exp() if name != "gspo" else (sum(logs) / num).exp()
            advantage = (to_go[row, t] - mean) / std if name == "reinforce++" else scale * (ends[row] - centre)
            high = {"dapo": 0.28, "gspo": 4e-4}.get(name, 0.2)
            low = 3e-4 if name == "gspo" else 0.2
            term = -torch.minimum(ratio * advantage, ratio.clamp(1 - low, 1 + high) * advantage)
            d = new[t] - ref[row, t]
            k3 = (-d).exp() - 1 + d
            price = {"none": 0.0, "k2": d**2 / 2, "k3": k3, "k3_weighted": logs[t].exp() * k3}[kl_penalty]
            terms.append(term + 0.3 * price)
        if name in ("grpo", "gspo"):
            loss = loss + sum(terms) / num / 8
        else:
            loss = loss + sum(terms) / (8 * 7 if name == "dr_grpo" else sum(lengths))
    loss.backward()
    assert pi.grad is not None and float(pi.grad.norm()) > 1e-3
    assert torch.allclose(found, pi.grad, atol=1e-6)


@pytest.mark.parametrize("name", CRITIC_FREE)
@pytest.mark.parametrize("size", [1, 3, 7])
def test_the_micro_batch_of_a_relative_does_not_matter(name: str, size: int) -> None:
    rollout = play_groups(Bandit(torch.float64), 0, num=16, length=3)
    whole, _ = moved(of_algorithm(name, kl_penalty="none", num_minibatches=2, max_grad_norm=1e9), rollout)
    config = of_algorithm(name, kl_penalty="none", num_minibatches=2, max_grad_norm=1e9, micro_batch_size=size)
    assert torch.allclose(moved(config, rollout)[0], whole, rtol=0, atol=1e-6)
    assert float(whole.norm()) > 1e-5


def test_the_rows_of_a_group_stay_together() -> None:
    """In one micro-batch, whose prompt is then computed once; the groups are in another order in every epoch."""
    seen: list[list[int]] = []

    class Watched(Bandit):
        def actor(self, inputs: Mapping[str, Tensor]) -> ActorOutput:
            seen.append(inputs["row"].tolist())
            return super().actor(inputs)

    bandit, plain = Watched(), play_groups(Bandit(), 0)
    rollout = replace(plain, inputs={**plain.inputs, "row": torch.arange(64)})
    config = changed(GROUPED, epochs=2, num_minibatches=4, micro_batch_size=8)
    update(without_critic(bandit, config), rollout, config, generator=generator(0))
    assert len(seen) == 16
    assert all(part == list(range(part[0], part[0] + 8)) and part[0] % 8 == 0 for part in seen)
    assert sorted(row for part in seen[:8] for row in part) == list(range(64)) and seen[:8] != seen[8:]


def test_groups_of_equal_rewards_move_nothing() -> None:
    bandit = Bandit()
    before = learning_state(bandit.policy)["weight"]
    rollout = play_groups(bandit, 0)
    rollout = replace(rollout, rewards=torch.full_like(rollout.rewards, 0.1) + 1e-8 * torch.randn(64, 1))
    config = of_algorithm("grpo", kl_penalty="none")
    seen = update(without_critic(bandit, config), rollout, config, generator=generator(0))
    assert torch.equal(bandit.policy.weight, before) and seen["actor_grad_norm"] == 0.0


def test_without_a_critic_the_actor_starts_at_once_and_a_killed_run_resumes_to_the_same_bits(tmp_path: Path) -> None:
    config = LoopConfig.model_validate(LOOP.model_dump() | SETTINGS["rloo"] | {"algorithm": "rloo"})
    assert config.critic_warmup_updates == 2

    def train_it(path: Path, bandit: Bandit, *, kill_in: int = -1) -> Trained:
        def collect(index: int, carry: Mapping[str, float]) -> Collected:
            if index == kill_in:
                raise Killed
            return Collected(play_groups(bandit, index), {}, [], {})

        with RunFolder.open(path, config, preset="bandit") as folder, folder.step("ppo", total=8, shown=[]) as step:
            return train(
                step,
                without_critic(bandit, config),
                collect=collect,
                validate=lambda: Validation(skill(bandit), skills(bandit), 1.0),
                carry={},
                config=config,
                samples_every=2,
                seed=3,
            )

    whole, again = Bandit(), Bandit()
    trained = train_it(tmp_path / "whole", whole)
    assert "ppo/actor_loss" in rows(tmp_path / "whole")[1]
    with pytest.raises(Killed):
        train_it(tmp_path / "killed", Bandit(), kill_in=5)
    assert train_it(tmp_path / "killed", again) == trained
    assert torch.equal(again.policy.weight, whole.policy.weight)


@pytest.mark.parametrize("name", ["grpo", "dr_grpo", "gspo"])
def test_the_number_of_processes_does_not_matter_to_groups(name: str) -> None:
    """Each rank knows all rewards: a group that is divided among ranks has the same baseline."""
    config = of_algorithm(name, kl_penalty="k2", num_minibatches=2, micro_batch_size=3, max_grad_norm=1e9)

    def updated() -> tuple[dict[str, float], Tensor]:
        bandit = Bandit(torch.float64)
        rollout = play_groups(bandit, 0, num=32, length=3)
        rollout = replace(rollout, ref_logprobs=rollout.logprobs - 0.1, kl_coef=0.3)
        learner = Learner(bandit, bandit.policy, None, SGD([bandit.policy.weight], 1.0), None)
        return update(learner, rollout, config, generator=generator(0)), bandit.policy.weight.detach()

    seen, weight = updated()
    for of_rank, moved_weight in on_ranks(2, updated):
        assert of_rank == pytest.approx(seen, abs=1e-6) and "kl_loss" in of_rank
        assert torch.allclose(moved_weight, weight, rtol=0, atol=1e-6)
