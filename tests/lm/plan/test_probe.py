"""Times of phases, measured on shallow copies of a model."""

import pytest

from tercet.lm.plan import probe
from tercet.lm.plan.cost import Sizes
from tercet.lm.plan.shapes import shape_of
from tercet.train.device import device_of


def test_the_time_of_all_layers_follows_from_one_and_two():
    seconds = {1: {"learn": 3.0, "apply": 1.0}, 2: {"learn": 5.0, "apply": 0.5}}
    # a layer takes 2 seconds, the rest 1; a negative time of a layer is noise
    assert probe._in_depth(seconds.__getitem__, 10) == {"learn": 1.0 + 10 * 2.0, "apply": 1.0}


def test_every_phase_takes_time(make_config):
    config = make_config(ppo={"batch_size": 2, "micro_batch_size": 2, "num_minibatches": 1})
    sizes = Sizes(prompt=4, response=4)
    policy = probe.policy_seconds(config, shape_of(config), config.ppo, sizes)
    score = probe.score_seconds(config, shape_of(config), config.ppo, sizes)
    assert set(policy) == {"read", "draw", "score", "learn", "apply"} and set(score) == {"score", "learn", "apply"}
    assert min(*policy.values(), *score.values()) > 0


def test_a_large_micro_batch_is_timed_in_part(make_config):
    config = make_config(ppo={"batch_size": 64, "micro_batch_size": 64})
    batch, times = probe._micro_batch(config.ppo, Sizes(prompt=100, response=100), device_of(config.device))
    assert len(batch.ids) == 5  # 1,024 tokens
    assert times == pytest.approx(64 / 5)
