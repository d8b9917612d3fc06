"""PPO's loop on a bandit with contexts: plain torch, no language model."""

import json
import os
import signal
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.on_ranks import on_ranks
from torch import Tensor, nn
from torch.optim import SGD

from tercet.config.ppo import SETTINGS, LoopConfig, UpdateConfig
from tercet.errors import FailedError
from tercet.runs.folder import RunFolder
from tercet.runs.integrity import SEAL, sealed
from tercet.runs.ranks import rank
from tercet.runs.stop import Ended, on_signal
from tercet.train.chance import generator
from tercet.train.ema import learning_state
from tercet.train.ppo import Collected, Learner, Trained, takes_one_step, train, update
from tercet.train.selection import Best, Shrinkage, Validation
from tercet.train.watch import NEVER, Stopped, StopRule, Watched
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


def after(config: UpdateConfig, num_updates: int) -> float:
    bandit = Bandit()
    learner = bandit.learner(config)
    for index in range(num_updates):
        update(learner, play(bandit, index), config, generator=generator(0, "minibatches", index))
    return skill(bandit)


FAST = UpdateConfig(lr=0.05, critic_lr=0.05, epochs=1, num_minibatches=1, micro_batch_size=64, lam=0.9)


def changed(config: UpdateConfig, **settings: Any) -> UpdateConfig:  # Any: what UpdateConfig checks
    return type(config).model_validate(config.model_dump() | settings)


# learning


def test_it_learns_the_right_action_in_every_state() -> None:
    assert skill(Bandit()) < 0.25
    assert after(changed(FAST, epochs=2, num_minibatches=2), 40) > 0.9


@pytest.mark.slow
def test_more_epochs_and_minibatches_help_and_do_not_diverge() -> None:
    once = after(FAST, 15)
    often = after(changed(FAST, epochs=4, num_minibatches=4), 15)
    assert once < 0.6 and often > once + 0.2 and often > 0.8
    assert after(changed(FAST, epochs=8, num_minibatches=2), 30) > 0.95


# one update


def test_the_first_step_has_ratio_1() -> None:
    bandit = Bandit()
    seen = update(bandit.learner(FAST), play(bandit, 0), FAST, generator=generator(0))
    assert seen["clip_fraction"] == 0.0
    assert abs(seen["approx_kl"]) < 1e-7
    assert abs(seen["actor_loss"]) < 1e-6  # minus the mean of whitened advantages
    probs = Bandit().policy.weight.detach().softmax(-1)
    entropies = -(probs * probs.log()).sum(-1)
    rollout = play(Bandit(), 0)
    assert seen["entropy"] == pytest.approx(float(entropies[rollout.inputs["states"]][rollout.mask].mean()), abs=1e-5)


def steepest(bandit: Bandit) -> Learner:
    """A learner whose parameters move by minus their gradient."""
    return Learner(
        bandit, bandit.policy, bandit.baseline, SGD([bandit.policy.weight], 1.0), SGD([bandit.baseline.weight], 1.0)
    )


LONG = changed(FAST, max_grad_norm=1e9)  # never shortened


def test_the_gradients_are_those_of_the_formulas_token_by_token() -> None:
    """An independent version: loops over rows and tokens, in double precision, on a rollout of an older policy."""
    bandit = Bandit(torch.float64)
    rollout = play(bandit, 0, num=8)
    bandit.policy.weight.data += 0.3 * torch.randn(4, 5, generator=generator(1), dtype=torch.float64)
    bandit.baseline.weight.data += 0.3 * torch.randn(4, 1, generator=generator(2), dtype=torch.float64)
    before = learning_state(bandit.policy)["weight"], learning_state(bandit.baseline)["weight"]

    pi, v = (table.clone().requires_grad_() for table in before)
    advantages: dict[tuple[int, int], float] = {}
    for row in range(8):
        following, next_value = 0.0, 0.0
        for t in reversed(range(int(rollout.mask[row].sum()))):
            value = float(rollout.values[row, t])
            following = float(rollout.rewards[row, t]) + next_value - value + 0.9 * following
            advantages[row, t], next_value = following, value
    mean = sum(advantages.values()) / len(advantages)
    std = (sum((a - mean) ** 2 for a in advantages.values()) / len(advantages)) ** 0.5
    actor_loss, critic_loss = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    for (row, t), advantage in advantages.items():
        state, action = int(rollout.inputs["states"][row, t]), int(rollout.inputs["actions"][row, t])
        ratio = (pi[state].log_softmax(-1)[action] - rollout.logprobs[row, t]).exp()
        whitened = (advantage - mean) / std
        actor_loss = actor_loss - torch.minimum(ratio * whitened, ratio.clamp(0.8, 1.2) * whitened)
        old = float(rollout.values[row, t])
        target = advantage + old
        near = v[state, 0].clamp(old - 0.2, old + 0.2)
        critic_loss = critic_loss + 0.5 * torch.maximum((v[state, 0] - target) ** 2, (near - target) ** 2)
    (actor_loss / len(advantages)).backward()
    (critic_loss / len(advantages)).backward()

    seen = update(steepest(bandit), rollout, LONG, generator=generator(0))
    assert pi.grad is not None and v.grad is not None
    assert torch.allclose(before[0] - bandit.policy.weight, pi.grad, atol=1e-6)
    assert torch.allclose(before[1] - bandit.baseline.weight, v.grad, atol=1e-6)
    assert seen["actor_loss"] == pytest.approx(float(actor_loss) / len(advantages), abs=1e-6)
    assert seen["critic_loss"] == pytest.approx(float(critic_loss) / len(advantages), abs=1e-6)
    assert seen["clip_fraction"] > 0


def test_independent_steps_are_mixed_across_episodes_and_used_once_per_epoch() -> None:
    """And what pads a row is never looked at."""
    bandit, seen = Bandit(), []
    rollout = play(bandit, 0)
    numbers = torch.arange(rollout.mask.numel()).view(rollout.mask.shape)
    rollout = replace(rollout, inputs={**rollout.inputs, "number": numbers}, independent_steps=True)

    class Watched(Bandit):
        def critic(self, inputs: Mapping[str, Tensor]) -> Tensor:
            seen.append(inputs["number"].flatten())
            return super().critic(inputs)

    config = changed(FAST, epochs=2, num_minibatches=4, micro_batch_size=64)
    update(Watched().learner(config), rollout, config, generator=generator(0))
    counted = numbers[rollout.mask].tolist()
    for epoch in (seen[:4], seen[4:]):
        assert sorted(torch.cat(epoch).tolist()) == counted
        lengths = [len(part) for part in epoch]
        assert max(lengths) - min(lengths) <= 1
    rows = [set((part // rollout.mask.shape[1]).tolist()) for part in seen[:4]]
    assert any(rows[0] & other for other in rows[1:])  # an episode's steps are in several minibatches


@pytest.mark.parametrize("size", [1, 8, 64])
def test_one_minibatch_is_the_same_with_and_without_independent_steps(size: int) -> None:
    tables = []
    for independent_steps in (False, True):
        bandit = Bandit(torch.float64)
        rollout = replace(play(bandit, 0), independent_steps=independent_steps)
        update(steepest(bandit), rollout, changed(LONG, micro_batch_size=size), generator=generator(0))
        tables.append(torch.cat([bandit.policy.weight, bandit.baseline.weight], 1))
    assert torch.allclose(*tables, atol=1e-7)
    assert not torch.allclose(tables[0][:, :NUM_ACTIONS], Bandit(torch.float64).policy.weight)


@pytest.mark.parametrize("size", [1, 3, 8, 31])
def test_the_micro_batch_does_not_matter(size: int) -> None:
    """Episodes differ in length, so a mean of micro-batch means would be something else."""
    results = []
    for micro_batch_size in (64, size):
        bandit = Bandit(torch.float64)
        config = changed(LONG, micro_batch_size=micro_batch_size, epochs=2, num_minibatches=2, entropy_coef=0.1)
        seen = update(steepest(bandit), play(bandit, 0), config, generator=generator(0))
        results.append((seen, bandit))
    (whole, a), (parts, b) = results
    assert torch.allclose(a.policy.weight, b.policy.weight, rtol=0, atol=1e-6)
    assert torch.allclose(a.baseline.weight, b.baseline.weight, rtol=0, atol=1e-6)
    assert parts == pytest.approx(whole, abs=1e-5)


def test_advantages_are_whitened_over_the_whole_rollout() -> None:
    """Minibatches of one action each: whitened by themselves they would all be 0."""
    bandit = Bandit()
    before = learning_state(bandit.policy)["weight"]
    config = changed(LONG, num_minibatches=32)
    update(steepest(bandit), play(bandit, 0, length=1), config, generator=generator(0))
    assert not torch.allclose(bandit.policy.weight, before, atol=0.01)


def test_reward_scale_matters_only_without_whitening() -> None:
    moves = []
    for whitened in (True, False):
        for scale in (1.0, 10.0):
            bandit = Bandit()
            bandit.baseline.weight.data.fill_(0.0)
            before = learning_state(bandit.policy)["weight"]
            rollout = play(bandit, 0)
            rollout = Rollout(**vars(rollout) | {"rewards": rollout.rewards * scale})
            update(steepest(bandit), rollout, changed(LONG, whiten_advantages=whitened), generator=generator(0))
            moves.append(float((bandit.policy.weight - before).norm()))
    assert moves[1] == pytest.approx(moves[0], rel=1e-3) and moves[3] == pytest.approx(10 * moves[2], rel=1e-3)


def test_the_entropy_bonus_pulls_toward_the_mean_entropy_of_the_states() -> None:
    bandit = Bandit()
    table = learning_state(bandit.policy)["weight"].requires_grad_()
    rollout = play(bandit, 0)
    nothing = torch.zeros_like(rollout.rewards)
    rollout = Rollout(**vars(rollout) | {"rewards": nothing, "values": nothing, "next_values": nothing})
    update(steepest(bandit), rollout, changed(LONG, entropy_coef=0.5), generator=generator(0))
    logprobs = table.log_softmax(-1)
    entropies = -(logprobs.exp() * logprobs).sum(-1)
    entropies[rollout.inputs["states"][rollout.mask]].mean().backward()
    assert table.grad is not None and float(table.grad.norm()) > 1e-3
    assert torch.allclose(bandit.policy.weight - table, 0.5 * table.grad, atol=1e-6)


def test_gradients_are_shortened_to_the_norm() -> None:
    bandit = Bandit()
    before = learning_state(bandit.policy)["weight"]
    seen = update(steepest(bandit), play(bandit, 0), changed(LONG, max_grad_norm=1e-3), generator=generator(0))
    assert seen["actor_grad_norm"] > 1e-2  # what is logged is the norm before
    assert float((bandit.policy.weight - before).norm()) == pytest.approx(1e-3, rel=1e-3)


def test_every_row_is_learned_from_once_an_epoch() -> None:
    rows: list[int] = []

    class Watched(Bandit):
        def actor(self, inputs: Mapping[str, Tensor]) -> ActorOutput:
            rows.extend(inputs["row"].tolist())
            return super().actor(inputs)

    bandit = Watched()
    plain = play(Bandit(), 0)
    rollout = Rollout(**vars(plain) | {"inputs": {**plain.inputs, "row": torch.arange(32)}})
    config = changed(FAST, epochs=3, num_minibatches=5, micro_batch_size=4)
    update(bandit.learner(config), rollout, config, generator=generator(0))
    epochs = [rows[i : i + 32] for i in range(0, 96, 32)]
    assert len(rows) == 96
    assert all(sorted(epoch) == list(range(32)) for epoch in epochs) and epochs[0] != epochs[1]


def test_the_pretraining_mix_is_added_to_the_actors_gradient() -> None:
    moves = []
    for with_mix in (False, True):
        bandit = Bandit()
        before = learning_state(bandit.policy)["weight"]
        mix = (lambda minibatch, bandit=bandit: 3.0 * bandit.policy.weight.sum()) if with_mix else None
        seen = update(steepest(bandit), play(bandit, 0), LONG, generator=generator(0), extra_actor_loss=mix)
        moves.append(bandit.policy.weight.detach() - before)
        assert ("extra_loss" in seen) == with_mix
    assert torch.allclose(moves[1], moves[0] - 3.0, atol=1e-5)


def test_pretraining_mix_gets_the_minibatch_index() -> None:
    bandit, seen = Bandit(), []

    def mix(minibatch: int) -> Tensor:
        seen.append(minibatch)
        return 0.0 * bandit.policy.weight.sum()

    config = changed(FAST, epochs=2, num_minibatches=3)
    update(bandit.learner(config), play(bandit, 0), config, generator=generator(0), extra_actor_loss=mix)
    assert seen == [0, 1, 2, 3, 4, 5]


# when to stop


def test_values_with_a_graph_need_no_second_forward(monkeypatch: pytest.MonkeyPatch) -> None:
    config = changed(FAST, epochs=1, num_minibatches=1, micro_batch_size=32)
    assert takes_one_step(config, 32) and not takes_one_step(config, 33)
    assert not takes_one_step(changed(config, epochs=2), 32)
    assert not takes_one_step(changed(config, num_minibatches=2), 32)
    weights, calls = [], 0
    for keeps_graph in (False, True):
        bandit = Bandit()
        rollout, learner = play(bandit, 0), bandit.learner(config)
        if keeps_graph:
            rollout = replace(rollout, values=bandit.critic(rollout.inputs))
        critic = bandit.critic

        def counted(inputs: Mapping[str, Tensor], critic: Callable[..., Tensor] = critic) -> Tensor:
            nonlocal calls
            calls += 1
            return critic(inputs)

        monkeypatch.setattr(bandit, "critic", counted)
        before = bandit.baseline.weight.detach().clone()
        update(learner, rollout, config, generator=generator(0))
        assert not torch.equal(bandit.baseline.weight, before)
        weights.append(bandit.baseline.weight.detach())
    assert calls == 1
    assert torch.allclose(weights[0], weights[1], atol=1e-7)


def test_actor_does_not_change_during_critic_warmup() -> None:
    bandit = Bandit()
    actor, critic = learning_state(bandit.policy)["weight"], learning_state(bandit.baseline)["weight"]
    seen = update(bandit.learner(FAST), play(bandit, 0), FAST, generator=generator(0), train_actor=False)
    assert torch.equal(bandit.policy.weight, actor) and not torch.equal(bandit.baseline.weight, critic)
    assert "critic_loss" in seen and "actor_loss" not in seen and "clip_fraction" not in seen


@pytest.mark.parametrize("with_mix", [False, True])
def test_update_stops_before_a_step_with_too_large_kl(with_mix: bool) -> None:
    config = changed(FAST, lr=1.0, epochs=10, kl_stop=0.05)
    mix: Callable[[int], Tensor] | None = (lambda _: 0.0 * bandit.policy.weight.sum()) if with_mix else None
    bandit = Bandit()
    learner = bandit.learner(config)
    rollout = play(bandit, 0)
    seen = update(learner, rollout, config, generator=generator(0), extra_actor_loss=mix)
    assert seen["num_minibatches"] == 2 and seen["approx_kl"] > 0.025  # the mean of 0 and of too much
    once = Bandit()
    update(once.learner(config), rollout, changed(config, epochs=1), generator=generator(0))
    assert torch.equal(bandit.policy.weight, once.policy.weight)  # the second step was measured, and not taken
    assert all(p.grad is None for p in bandit.policy.parameters())
    free = Bandit()
    seen = update(free.learner(config), rollout, changed(config, kl_stop=0.0), generator=generator(0))
    assert seen["num_minibatches"] == 10


# the loop

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


@pytest.mark.parametrize("ema_decay", [0.0, 0.5])
def test_killed_run_resumes_to_the_same_bits(tmp_path: Path, ema_decay: float) -> None:
    config = LoopConfig.model_validate(LOOP.model_dump() | {"ema_decay": ema_decay})
    whole = Bandit()
    keep = (1, 4, 5, 7)
    trained = run(tmp_path / "whole", config, whole, keep=keep)
    kept = {path.parent.name: path.read_bytes() for path in (tmp_path / "whole" / "ppo" / "rollouts").glob("*/*")}
    assert sorted(kept) == ["1", "4", "5", "7"]
    assert 0 < trained.best.update <= 7 and trained.shrinkage is not None
    for kills in ([0], [2], [3], [4, 5], [6, 6]):  # before, between and right after checkpoints, also twice
        path = tmp_path / "-".join(map(str, kills))
        for kill_in in kills:
            with pytest.raises(Killed):
                run(path, config, Bandit(), kill_in=kill_in, keep=keep)
        again = Bandit()
        assert run(path, config, again, keep=keep) == trained
        rollouts = (path / "ppo" / "rollouts").glob("*/*")
        assert {file.parent.name: file.read_bytes() for file in rollouts} == kept
        for name in ("metrics.jsonl", "samples.jsonl"):
            assert (path / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
        assert torch.equal(again.policy.weight, whole.policy.weight)
        assert torch.equal(again.baseline.weight, whole.baseline.weight)


def test_the_update_that_reaches_the_budget_is_the_last_and_its_rollout_is_kept(tmp_path: Path) -> None:
    run(tmp_path / "kept", LOOP, Bandit(), budget=45, keep=(1, 7))
    logged = rows(tmp_path / "kept")
    assert [row["ppo/lr"] for row in logged[1:]] == pytest.approx([LOOP.lr * (1 - 10 * i / 45) for i in range(5)])
    kept = (tmp_path / "kept" / "ppo" / "rollouts").iterdir()
    assert sorted(path.name for path in kept) == ["1", "5"]
    run(tmp_path / "none", LOOP, Bandit(), budget=45)
    assert not (tmp_path / "none" / "ppo" / "rollouts").exists()


def test_learning_rates_fall_to_0_when_the_updates_end_before_the_budget(tmp_path: Path) -> None:
    run(tmp_path, LOOP, Bandit(), budget=1000)
    assert [row["ppo/lr"] for row in rows(tmp_path)[1:]] == pytest.approx([LOOP.lr * (1 - i / 7) for i in range(7)])


def test_run_resumes_from_its_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        run(tmp_path, LOOP, Bandit(), kill_in=5)
    collected: list[int] = []
    run(tmp_path, LOOP, Bandit(), watch=collected.append)
    assert collected == [3, 4, 5, 6]


def test_actor_starts_after_critic_warmup_and_learning_rates_fall_to_0(tmp_path: Path) -> None:
    bandit = Bandit()
    start, tables = bandit.policy.weight.detach().clone(), []
    run(tmp_path, LOOP, bandit, watch=lambda index: tables.append(bandit.policy.weight.detach().clone()))
    assert torch.equal(tables[2], start) and not torch.equal(tables[3], start)
    logged = rows(tmp_path)
    assert [row["index"] for row in logged] == list(range(8))
    assert ["ppo/actor_loss" in row for row in logged] == [False] * 3 + [True] * 5
    assert [row["ppo/lr"] for row in logged[1:]] == pytest.approx([0.05 * (1 - i / 7) for i in range(7)])
    assert [row["index"] for row in logged if "ppo/validation_score" in row] == [0, 2, 4, 6, 7]


def test_best_actor_within_the_kl_bound_is_kept(tmp_path: Path) -> None:
    config = LoopConfig.model_validate(LOOP.model_dump() | {"max_kl": 10.0, "critic_warmup_updates": 0})
    told = iter([(1.0, 0.0), (9.0, 10.5), (4.0, 9.5), (4.0, 1.0), (3.0, 1.0)])
    bandit, tables = Bandit(), {}

    def validate() -> Validation:
        tables[len(tables)] = bandit.policy.weight.detach().clone()
        return measured(*next(told))

    best = run(tmp_path, config, bandit, validate=validate).best
    assert best == Best(update=4, score=4.0, kl=9.5)  # the higher score lay too far away; an equal one is no better
    assert torch.equal(bandit.policy.weight, tables[2])


def test_initial_actor_is_kept_if_no_update_is_better(tmp_path: Path) -> None:
    bandit = Bandit()
    start = bandit.policy.weight.detach().clone()
    scores = iter([5.0, 1.0, 2.0, 3.0, 4.0])
    best = run(tmp_path, LOOP, bandit, validate=lambda: measured(next(scores), 0.0)).best
    assert best == Best(update=0, score=5.0, kl=0.0)
    assert torch.equal(bandit.policy.weight, start)


def test_the_average_is_what_is_measured_and_kept(tmp_path: Path) -> None:
    config = LoopConfig.model_validate(
        LOOP.model_dump() | {"ema_decay": 0.9, "critic_warmup_updates": 0, "eval_every": 1}
    )
    bandit, seen, averages = Bandit(), [], []

    def validate() -> Validation:
        averages.append(bandit.policy.weight.detach().clone())
        return measured(float(len(averages)), 0.0)

    run(tmp_path, config, bandit, validate=validate, watch=lambda i: seen.append(bandit.policy.weight.detach().clone()))
    mean = seen[0]
    assert torch.equal(averages[0], mean)
    for index in range(1, 7):
        mean = 0.9 * mean + 0.1 * seen[index]
        assert torch.allclose(averages[index], mean, atol=1e-6)
    assert torch.equal(bandit.policy.weight, averages[-1])


# expected shrinkage


def uneven(scores: list[list[float]], kls: list[float]) -> Callable[[], Validation]:
    """Validations with these scores of two prompts, one after another."""
    told = iter([Validation(sum(row) / 2, torch.tensor(row), kl) for row, kl in zip(scores, kls, strict=True)])
    return lambda: next(told)


def test_the_shrinkage_is_that_of_the_actors_that_could_be_kept(tmp_path: Path) -> None:
    """Each prompt alone would choose another actor than both together: 1 - (-2) on the other prompt."""
    config = LoopConfig.model_validate(LOOP.model_dump() | {"max_kl": 10.0})
    scores = [[1.0, 1.0], [3.0, -2.0], [50.0, -49.0], [-2.0, 3.0], [-9.0, -9.0]]
    trained = run(tmp_path, config, Bandit(), validate=uneven(scores, [99.0, 1.0, 10.5, 10.0, 0.0]))
    assert trained.best == Best(update=0, score=1.0, kl=99.0)  # the start may be kept at any KL
    assert trained.shrinkage == Shrinkage(3.0, num_candidates=4, num_scores=2)
    assert trained.best_checkpoint == vars(trained.best) | {
        "expected_shrinkage": 3.0,
        "num_candidates": 4,
        "num_scores": 2,
    }
    assert trained.kept("prompts") == (
        "kept the policy of update 0: validation score 1, of which about 3 is chance "
        "(the best of 4 validations on 2 prompts)"
    )


def test_actors_under_which_a_watched_score_fell_are_no_candidates(tmp_path: Path) -> None:
    bandit = Bandit()
    trained = run(tmp_path, EVERY, bandit, validate=lambda: falling(bandit), stop=STOP)
    assert trained.shrinkage is not None and trained.shrinkage.num_candidates == len(rows(tmp_path)) - 2
    assert trained.shrinkage.num_scores == NUM_STATES


def test_one_prompt_says_nothing_about_the_shrinkage(tmp_path: Path) -> None:
    trained = run(tmp_path, LOOP, Bandit(), validate=lambda: Validation(1.0, torch.ones(1), 0.0))
    assert trained.shrinkage is None
    assert trained.best_checkpoint == {"update": 0, "score": 1.0, "kl": 0.0}
    assert trained.kept("prompts") == "kept the policy of update 0: validation score 1"


def test_a_checkpoint_from_before_the_scores_were_kept_goes_on_without_the_shrinkage(tmp_path: Path) -> None:
    whole = Bandit()
    best = run(tmp_path / "whole", LOOP, whole).best
    with pytest.raises(Killed):
        run(tmp_path / "old", LOOP, Bandit(), kill_in=4)
    state = tmp_path / "old" / "ppo" / "checkpoint" / "state.json"
    old = json.loads(state.read_text())
    del old["info"]["candidates"]
    state.write_text(sealed({key: value for key, value in old.items() if key != SEAL}))
    for kill_in in (6, -1):  # also after another checkpoint
        again = Bandit()
        if kill_in >= 0:
            with pytest.raises(Killed):
                run(tmp_path / "old", LOOP, again, kill_in=kill_in)
        else:
            assert run(tmp_path / "old", LOOP, again) == Trained(best, None, None)
    assert torch.equal(again.policy.weight, whole.policy.weight)


# watched scores


def falling(bandit: Bandit) -> Validation:
    """A score that rises with skill, and a watched one that falls with it."""
    return Validation(
        skill(bandit), skills(bandit), 1.0, {"asks": Watched(1.0 - skill(bandit), 0.01, 1.0 - skill(bandit))}
    )


STOP = StopRule({"asks": 0.02}, 2)
EVERY = LoopConfig.model_validate(LOOP.model_dump() | {"eval_every": 1, "critic_warmup_updates": 0})


def test_watched_scores_are_logged_and_change_nothing_else(tmp_path: Path) -> None:
    plain, watched = Bandit(), Bandit()
    before = run(tmp_path / "plain", LOOP, plain)
    after = run(tmp_path / "watched", LOOP, watched, validate=lambda: falling(watched))
    assert after == before and after.stopped is None
    logged = rows(tmp_path / "watched")
    validated = [row for row in logged if "ppo/validation_score" in row]
    assert [row["ppo/watch/asks"] for row in validated] == [1.0 - row["ppo/validation_score"] for row in validated]
    assert all(row["ppo/watch_error/asks"] == 0.01 for row in validated)
    assert [{k: v for k, v in row.items() if "watch" not in k} for row in logged] == rows(tmp_path / "plain")
    assert torch.equal(plain.policy.weight, watched.policy.weight)


def test_training_stops_when_a_watched_score_has_fallen_and_keeps_a_policy_from_before(tmp_path: Path) -> None:
    bandit, free = Bandit(), Bandit()
    trained = run(tmp_path / "stopped", EVERY, bandit, validate=lambda: falling(bandit), stop=STOP)
    run(tmp_path / "free", EVERY, free, validate=lambda: falling(free))
    logged = rows(tmp_path / "stopped")
    assert logged == rows(tmp_path / "free")[: len(logged)]  # until it stops, the rule changes nothing
    falls = [logged[0]["ppo/watch/asks"] - row["ppo/watch/asks"] for row in logged]
    assert len(logged) < 8 and min(falls[-2:]) > 0.02 and max(falls[:-2]) <= 0.02
    assert trained.stopped == Stopped(logged[-1]["index"], {"asks": falls[-1]})
    assert trained.best.update == len(logged) - 3  # later ones have a higher score, and a fall
    assert skill(bandit) == pytest.approx(trained.best.score)


def test_a_stopped_run_stays_stopped(tmp_path: Path) -> None:
    whole = Bandit()
    expected = run(tmp_path / "whole", EVERY, whole, validate=lambda: falling(whole), stop=STOP)
    assert expected.stopped is not None
    for kill_in in (1, expected.stopped.update - 1, -1):  # before it stops, and after its last checkpoint
        path = tmp_path / str(kill_in)
        first, again = Bandit(), Bandit()
        if kill_in >= 0:
            with pytest.raises(Killed):
                run(path, EVERY, first, validate=lambda b=first: falling(b), stop=STOP, kill_in=kill_in)
        else:
            run(path, EVERY, first, validate=lambda b=first: falling(b), stop=STOP, finishes=False)
        trained = run(
            path, EVERY, again, validate=lambda b=again: falling(b), stop=STOP, kill_in=expected.stopped.update
        )
        assert trained == expected
        assert (path / "metrics.jsonl").read_bytes() == (tmp_path / "whole" / "metrics.jsonl").read_bytes()
        assert torch.equal(again.policy.weight, whole.policy.weight)


def test_a_fall_at_the_last_update_stops_nothing(tmp_path: Path) -> None:
    bandit = Bandit()
    values = iter([0.9, 0.9, 0.9, 0.1, 0.1])
    told = run(
        tmp_path,
        LOOP,
        bandit,
        validate=lambda: measured(1.0, 0.0, {"asks": Watched.of(torch.tensor([next(values)]))}),
        stop=STOP,
    )
    assert told.stopped is None and len(rows(tmp_path)) == 8


def test_a_watched_judge_that_changes_which_prompts_it_scores_stops_nothing_and_a_resumed_run_knows_its_prompts(
    tmp_path: Path,
) -> None:
    nan = float("nan")
    few, other, more, none = [0.9, 0.9, nan, nan], [nan, nan, 0.1, 0.1], [0.9, 0.9, 0.1, 0.1], [nan] * 4
    fallen = [0.8, 0.8, 1.0, 1.0]

    def validate(num_done: int, *seen: list[float]) -> Callable[[], Validation]:
        values = iter(seen[num_done:])
        return lambda: measured(1.0, 0.0, {"asks": Watched.of(torch.tensor(next(values)))})

    steady = [few, more, none, other, few, more, none, more]  # update 0 and 7 more
    assert run(tmp_path / "steady", EVERY, Bandit(), validate=validate(0, *steady), stop=STOP).stopped is None
    assert ["ppo/watch/asks" in row for row in rows(tmp_path / "steady")] == [one is not none for one in steady]
    falls = [few, more, more, more, fallen, fallen]
    with pytest.raises(Killed):
        run(tmp_path / "falls", EVERY, Bandit(), validate=validate(0, *falls), stop=STOP, kill_in=3)
    stopped = run(tmp_path / "falls", EVERY, Bandit(), validate=validate(4, *falls), stop=STOP).stopped
    assert stopped is not None and stopped.update == 5 and stopped.falls["asks"] == pytest.approx(0.1)


def test_a_watched_judge_without_any_score_is_refused_before_training(tmp_path: Path) -> None:
    def validate() -> Validation:
        return measured(1.0, 0.0, {"asks": Watched.of(torch.tensor([float("nan")]))})

    with pytest.raises(FailedError, match="asks gave no score to any validation answer"):
        run(tmp_path, EVERY, Bandit(), validate=validate)


def test_an_action_of_weight_zero_does_not_move_the_policy_and_one_of_weight_two_counts_twice() -> None:
    plain = play(Bandit(), 0)
    first = plain.inputs["states"] == 0
    rows: dict[float, Tensor] = {}
    for weight in (0.0, 1.0, 2.0):
        bandit = Bandit()
        weights = torch.where(first, weight, 1.0)
        before = bandit.policy.weight.detach().clone()
        config = changed(FAST, max_grad_norm=1e6)
        actor, critic = (torch.optim.SGD(one.parameters(), lr=1.0) for one in (bandit.policy, bandit.baseline))
        learner = Learner(bandit, bandit.policy, bandit.baseline, actor, critic)
        update(learner, Rollout(**vars(plain) | {"weights": weights}), config, generator=generator(0, "minibatches"))
        rows[weight] = bandit.policy.weight.detach() - before
    assert torch.equal(rows[0.0][0], torch.zeros(NUM_ACTIONS))
    torch.testing.assert_close(rows[2.0][0], 2 * rows[1.0][0])
    torch.testing.assert_close(rows[2.0][1:], rows[1.0][1:])
    assert rows[1.0].abs().max() > 1e-4


# several processes


@pytest.mark.parametrize(
    ("total", "changes"),
    [(2, {}), (3, {"kl_stop": 1e-4}), (5, {"num_minibatches": 16})],
    ids=["plain", "early stop", "few rows"],
)
def test_the_number_of_processes_does_not_matter(total: int, changes: dict[str, float]) -> None:
    """With 16 minibatches of two rows each, most ranks have no row."""
    config = changed(LONG, **{"micro_batch_size": 3, "epochs": 2, "num_minibatches": 3, **changes})

    def updated() -> tuple[dict[str, float], Tensor, Tensor]:
        bandit = Bandit(torch.float64)
        seen = update(
            steepest(bandit),
            play(bandit, 0),
            config,
            generator=generator(0),
            extra_actor_loss=lambda index: bandit.policy.weight.square().sum() * (rank() == 0),
        )
        return seen, bandit.policy.weight.detach(), bandit.baseline.weight.detach()

    alone, of_ranks = updated(), on_ranks(total, updated)
    for seen, policy, baseline in of_ranks:
        assert seen == pytest.approx(alone[0], abs=1e-6)
        assert torch.allclose(policy, alone[1], rtol=0, atol=1e-6)
        assert torch.equal(policy, of_ranks[0][1])
        assert torch.equal(baseline, of_ranks[0][2])
    if "kl_stop" in changes:
        assert alone[0]["num_minibatches"] < 6


def test_sigterm_ends_it_after_the_update_and_it_continues_to_the_same_bits(tmp_path: Path) -> None:
    def ends(index: int) -> None:
        if index == 4:  # update 5 has no checkpoint of its own
            os.kill(os.getpid(), signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, on_signal)
    with pytest.raises(Ended):
        run(tmp_path / "ended", LOOP, Bandit(), watch=ends)
    signal.signal(signal.SIGTERM, before)
    collected: list[int] = []
    again, whole = Bandit(), Bandit()
    assert run(tmp_path / "ended", LOOP, again, watch=collected.append) == run(tmp_path / "whole", LOOP, whole)
    assert collected == [5, 6]
    assert torch.equal(again.policy.weight, whole.policy.weight)
    assert rows(tmp_path / "ended") == rows(tmp_path / "whole")


# without a critic

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
