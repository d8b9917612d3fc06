"""Peak rates of a machine."""

import pytest
import torch

from tercet.lm.plan.hardware import CARDS, best_seconds, measured_limits


def test_measured_rates_of_this_machine_are_plausible():
    found = measured_limits(torch.device("cpu"))
    assert 1e9 < found.flops_per_s < 1e14 and 1e8 < found.bytes_per_s < 1e13


def test_the_best_of_several_runs_counts_without_the_first():
    ticks = iter([10.0, 13.0, 20.0, 22.0])  # when the runs after the first start and end
    runs: list[int] = []
    found = best_seconds(lambda: runs.append(1), torch.device("cpu"), most_seconds=0.0, clock=lambda: next(ticks))
    assert found == 2.0 and len(runs) == 3


def test_the_expected_rates_of_a_card_are_a_fraction_of_its_data_sheet():
    card = CARDS["3090"]
    assert card.expected("bf16").flops_per_s == pytest.approx(0.4 * 71e12)
    assert card.expected("fp16").flops_per_s == card.expected("bf16").flops_per_s
    assert card.expected("fp32").flops_per_s == pytest.approx(0.4 * 35.6e12)
    assert card.expected("fp32").bytes_per_s == pytest.approx(0.6 * 936e9)
