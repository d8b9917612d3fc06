"""One update of PPO, on a bandit with contexts."""

from collections.abc import Callable, Mapping
from dataclasses import replace

import pytest
import torch
from tests.on_ranks import on_ranks
from tests.train.ppo.bandit import FAST, NUM_ACTIONS, Bandit, changed, play, skill
from torch import Tensor
from torch.optim import SGD

from tercet.config.ppo import UpdateConfig
from tercet.runs.ranks import rank
from tercet.train.chance import generator
from tercet.train.ema import learning_state
from tercet.train.ppo.learner import Learner
from tercet.train.ppo.update import takes_one_step, update
from tercet.types import ActorOutput, Rollout


def after(config: UpdateConfig, num_updates: int) -> float:
    bandit = Bandit()
    learner = bandit.learner(config)
    for index in range(num_updates):
        update(learner, play(bandit, index), config, generator=generator(0, "minibatches", index))
    return skill(bandit)


def test_it_learns_the_right_action_in_every_state() -> None:
    assert skill(Bandit()) < 0.25
    assert after(changed(FAST, epochs=2, num_minibatches=2), 40) > 0.9


@pytest.mark.slow
def test_more_epochs_and_minibatches_help_and_do_not_diverge() -> None:
    once = after(FAST, 15)
    often = after(changed(FAST, epochs=4, num_minibatches=4), 15)
    assert once < 0.6 and often > once + 0.2 and often > 0.8
    assert after(changed(FAST, epochs=8, num_minibatches=2), 30) > 0.95


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
