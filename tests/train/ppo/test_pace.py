"""The learning rate of the actor follows the KL of its steps."""

from pathlib import Path

import pytest
from pydantic import ValidationError
from tests.train.ppo.bandit import FAST, LOOP, Bandit, changed, play, rows, run, skill

from tercet.config.ppo import LoopConfig
from tercet.train.chance import generator
from tercet.train.optim import set_lr
from tercet.train.ppo.pace import FIRST, LEAST, RATE, Pace
from tercet.train.ppo.update import update


def test_the_share_falls_above_twice_the_target_and_rises_below_half_of_it() -> None:
    pace = Pace(0.3)
    assert pace.follow(0.021, 0.01) == pytest.approx(1 / 1.5) and pace.share == pytest.approx(0.2)
    assert pace.follow(0.004, 0.01) == pytest.approx(1.5) and pace.share == pytest.approx(0.3)
    for kl in (0.006, 0.01, 0.019):
        assert pace.follow(kl, 0.01) == 1.0 and pace.share == pytest.approx(0.3)


def test_the_share_stays_between_its_limits() -> None:
    high, low = Pace(0.9), Pace(0.012)
    assert high.follow(0.0, 0.01) == pytest.approx(1 / 0.9) and high.share == 1.0
    assert low.follow(1.0, 0.01) == pytest.approx(LEAST / 0.012) and low.share == LEAST


def first_update(update_kl: float, lr: float) -> tuple[float, float]:
    """The learning rate of the actor after 16 optimizer steps on one rollout, and the mean KL of the steps."""
    bandit = Bandit()
    config = changed(FAST, lr=lr, update_kl=update_kl, epochs=4, num_minibatches=4)
    learner = bandit.learner(config)
    set_lr(learner.actor_optimizer, lr * (learner.pace.share if learner.pace else 1.0))  # as the loop does
    kl = update(learner, play(bandit, 0), config, generator=generator(0))["approx_kl"]
    assert learner.critic_optimizer and learner.critic_optimizer.param_groups[0]["lr"] == FAST.critic_lr
    (now,) = {group["lr"] for group in learner.actor_optimizer.param_groups}
    assert now == pytest.approx(lr * (learner.pace.share if learner.pace else 1.0))
    return now, kl


def test_a_learning_rate_that_is_too_high_falls_and_one_that_is_too_low_is_used_whole() -> None:
    assert first_update(0.0, 5.0)[0] == 5.0
    assert first_update(0.01, 1e-6)[0] == pytest.approx(1e-6)  # from a tenth
    assert first_update(0.01, 5.0)[0] < 5.0 * FIRST / RATE**4


def test_updates_are_about_as_large_whatever_the_learning_rate() -> None:
    plain, adapted = ([first_update(update_kl, lr)[1] for lr in (0.1, 0.5, 2.0)] for update_kl in (0.0, 0.01))
    assert max(plain) > 50 * min(plain)
    assert max(adapted) < 5 * min(adapted) and min(adapted) > 0.01 and max(adapted) < 0.1


def test_a_run_logs_the_adapted_learning_rate_and_learns(tmp_path: Path) -> None:
    bandit = Bandit()
    config = LoopConfig.model_validate(LOOP.model_dump() | {"update_kl": 0.02, "num_updates": 12, "lr": 1.0})
    run(tmp_path, config, bandit)
    lrs = [row["ppo/lr"] for row in rows(tmp_path)[1:]]
    assert lrs[0] == pytest.approx(FIRST)
    assert lrs[2] == pytest.approx(FIRST * (1 - 2 / 12))  # the critic learned alone before
    assert max(lrs) < 1.0 and skill(bandit) > 0.4


def test_an_update_of_one_step_has_no_kl_to_follow() -> None:
    with pytest.raises(ValidationError, match=r"update_kl=0.01 adapts lr"):
        changed(FAST, update_kl=0.01, epochs=1, num_minibatches=1)
