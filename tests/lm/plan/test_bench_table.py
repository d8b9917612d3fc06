"""The bench compares a PPO step with the limits of the machine."""

import json

import pytest

from tercet.lm.plan.bench import Work, networks_of
from tercet.lm.plan.bench_table import Bench, Phase, floors, table
from tercet.lm.plan.hardware import Limits

WORK = Work(batch=2, prompt=6, response=3, layers=1, hidden=64, vocab=100)


def test_the_floor_is_the_larger_of_arithmetic_and_memory_traffic():
    config = networks_of(WORK)
    arithmetic = floors(WORK, config, Limits(flops_per_s=1e3, bytes_per_s=1e12))
    traffic = floors(WORK, config, Limits(flops_per_s=1e12, bytes_per_s=1e3))
    # one layer: 4 squares and 2 x 4 squares of 64; a head of 100 x 64; rows of 9 tokens, 45 pairs each
    layer, head, attention = 12 * 64 * 64, 100 * 64, 2 * 4 * 64 * 45
    # nine squares lie behind attention, where the 6 tokens are read that decide an answer, or the 2 that end a row
    behind = 9 * 64 * 64
    policy = 2 * layer * 18 - 2 * behind * (18 - 6) + attention + 2 * head * 6
    critic = 2 * layer * 18 - 2 * behind * (18 - 6) + attention
    reward = 2 * layer * 18 - 2 * behind * (18 - 2) + attention
    assert arithmetic["score"] == pytest.approx((policy + critic + reward) / 1e3, rel=0.01)
    assert arithmetic["train"] > 3 * (policy + critic) / 1e3
    # three tokens are drawn: each time all weights are read
    assert traffic["generate"] == pytest.approx(3 * 4 * (layer + head) / 1e3, rel=0.1)


def test_the_table_shows_the_share_of_the_limit_and_other_work():
    phases = {name: Phase(seconds=2.0, num_tokens=10, floor_s=1.0) for name in ("generate", "score", "train")}
    bench = Bench(WORK, Limits(1e11, 1e10), phases, other_cpus=0.5)
    text = "\n".join(table(bench))
    assert "100 GFLOP/s" in text and "10.0 GB/s" in text and "50%" in text and "not reliable" in text
    assert bench.whole == Phase(6.0, 10, 3.0)


@pytest.mark.slow
def test_the_command_measures_a_small_shape(tercet):
    found = json.loads(tercet("bench", "--shape", "tiny", "--json").output)
    assert set(found["phases"]) == {"generate", "score", "train"}
    for phase in found["phases"].values():
        assert 0 < phase["floor_s"] < phase["seconds"]
