"""What is recomputed from a kept rollout is what training computed."""

from dataclasses import replace
from statistics import fmean

import pytest
import torch
from tests.train.ppo.bandit import Bandit, changed, play
from tests.train.ppo.test_kept import SEVERAL, kept

from tercet.config.ppo import UpdateConfig
from tercet.train.chance import generator
from tercet.train.ppo.explain import explain
from tercet.train.ppo.inspection import numbers
from tercet.train.ppo.kept import NOT_USED, KeptRollout, Outputs, Seen, outputs
from tercet.train.ppo.update import update
from tercet.types import Rollout


@pytest.mark.parametrize("independent", [False, True])
@pytest.mark.parametrize(
    "settings", [{}, {"whiten_advantages": False, "lam": 0.3}, {"clip_range": 0.01}, {"kl_stop": 1e-4, "lr": 0.3}]
)
def test_recomputed_metrics_are_those_of_the_update(independent: bool, settings: dict[str, float]) -> None:
    config, bandit = changed(SEVERAL, **settings), Bandit()
    rollout = replace(play(bandit, 0), independent_steps=independent)
    seen = Seen.nothing(rollout, config.epochs)
    logged = update(bandit.learner(config), rollout, config, generator=generator(0), seen=seen)
    found = explain(
        KeptRollout(rollout, seen, outputs(bandit, rollout, 8, has_critic=True), {}), config, epoch=0, trains_actor=True
    ).metrics
    assert {name: logged[name] for name in found} == pytest.approx(found, rel=1e-4, abs=1e-6)
    assert found.keys() == logged.keys() - {"actor_grad_norm", "critic_grad_norm"}
    assert ("kl_stop" in settings) == (found["num_minibatches"] < 12)


def test_an_update_of_the_critic_alone_has_the_actor_of_the_rollout() -> None:
    found = explain(kept(Bandit(), train_actor=False), SEVERAL, epoch=1, trains_actor=False)
    assert (found.ratio == 1).all()
    assert "actor_loss" not in found.metrics and found.metrics["critic_loss"] > 0


# the example of docs/ppo.md, section 7: rewards of -0.02, 0.05 and 1, and an actor that has moved
def example(now: list[float], **settings: float) -> tuple[KeptRollout, UpdateConfig]:
    mask = torch.tensor([[True, True, True, False]])
    values = torch.tensor([[0.2, 0.4, 0.6, 55.0]])
    ends = torch.tensor([[False, False, True, False]])
    rollout = Rollout(
        inputs={},
        logprobs=torch.tensor([[-1.0, -2.0, -0.5, 9.0]]),
        values=values,
        next_values=torch.tensor([[0.4, 0.6, 77.0, 0.0]]),
        discounts=torch.ones(1, 4, dtype=torch.float64),
        rewards=torch.tensor([[-0.02, 0.05, 1.0, 66.0]]),
        terminated=ends,
        truncated=torch.zeros_like(ends),
        mask=mask,
    )
    after = Outputs(torch.tensor([[*now, 0.0]]), torch.zeros(1, 4), values + 0.5)
    seen = Seen(*(torch.zeros(1, 1, 4) for _ in range(3)), mask.long()[None])
    config = {"lam": 0.95, "whiten_advantages": False, "clip_range": 0.2, "value_clip_range": 0.2, "epochs": 1}
    return KeptRollout(rollout, seen, after, {}), UpdateConfig.model_validate(config | settings)


def test_every_number_by_hand() -> None:
    # ratios 1.1, 1.5 and 0.5; all advantages are positive, so only the second is clipped
    steps = torch.tensor([1.1, 1.5, 0.5]).log()
    kept_one, config = example((torch.tensor([-1.0, -2.0, -0.5]) + steps).tolist())
    found = explain(kept_one, config, epoch=None, trains_actor=True)
    last, middle = 0.4, 0.25 + 0.95 * 0.4
    first = 0.18 + 0.95 * middle
    advantages = torch.tensor([first, middle, last])

    def equal(values: torch.Tensor, expected: torch.Tensor | list[float]) -> None:
        torch.testing.assert_close(values[0, :3], torch.as_tensor(expected), rtol=1e-5, atol=1e-6)

    equal(found.deltas, [0.18, 0.25, 0.4])
    equal(found.advantages, advantages)
    equal(found.plain_advantages, advantages)
    equal(found.returns, advantages + torch.tensor([0.2, 0.4, 0.6]))
    equal(found.ratio, [1.1, 1.5, 0.5])
    assert found.is_outside.tolist() == [[False, True, True, False]]
    equal(found.policy_loss, [-1.1 * first, -1.2 * middle, -0.5 * last])
    equal(found.gradient, [-1.1 * first, 0.0, -0.5 * last])  # the third may still rise: outside, and not clipped
    # V moved by 0.5 and is clipped to 0.2, so the loss is that of the worse of the two
    equal(found.value_loss, [0.5 * max((0.5 - a) ** 2, (0.2 - a) ** 2) for a in advantages.tolist()])
    for values in (found.deltas, found.advantages, found.returns, found.policy_loss, found.gradient, found.value_loss):
        assert values[0, 3] == 0


def test_other_settings_change_what_depends_on_them() -> None:
    kept_one, config = example([-1.0, -2.0, -0.5])
    plain = explain(kept_one, config, epoch=None, trains_actor=True)
    short = explain(kept_one, changed(config, lam=0.0), epoch=None, trains_actor=True)
    assert torch.equal(short.advantages, short.deltas) and torch.equal(short.deltas, plain.deltas)
    white = explain(kept_one, changed(config, whiten_advantages=True), epoch=None, trains_actor=True)
    assert torch.equal(white.plain_advantages, plain.advantages)
    assert fmean(white.advantages[0, :3].tolist()) == pytest.approx(0, abs=1e-6)


def test_what_an_epoch_did_not_use_has_no_numbers_of_its_actor_and_critic() -> None:
    config = changed(SEVERAL, kl_stop=1e-4, lr=0.3)
    stopped = kept(Bandit(), config)
    mask, epochs = stopped.rollout.mask, []
    for epoch, steps in enumerate(stopped.seen.steps):
        used = steps != NOT_USED
        epochs.append(int(used.sum()))
        found = explain(stopped, config, epoch=epoch, trains_actor=True)
        for values in (found.logprobs, found.ratio, found.policy_loss, found.gradient, found.values, found.value_loss):
            assert torch.equal(values.isnan(), mask & ~used)
        assert not (found.is_outside & ~used).any()
        shown = numbers(replace(stopped.rollout, ref_logprobs=stopped.rollout.logprobs), found, kl_coef=0.0)
        for row, columns in enumerate(shown):
            for name in ("now", "ratio", "loss", "gradient", "value_now", "value_loss"):
                assert [value is not None for value in columns[name]] == used[row][mask[row]].tolist()
            assert None not in columns["advantage"] + columns["value"] + columns["outside"]
    assert 0 < epochs[0] < int(mask.sum()) and epochs[-1] == 0  # a part of the first epoch, and nothing of the last
    after = explain(stopped, config, epoch=None, trains_actor=True)
    assert not after.ratio.isnan().any()
