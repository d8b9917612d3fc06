"""Peak rates of a machine."""

import time

import pytest
import torch

from tercet.lm.plan.hardware import CARDS, best_seconds, measured_limits


def test_measured_rates_of_this_machine_are_plausible():
    found = measured_limits(torch.device("cpu"))
    assert 1e9 < found.flops_per_s < 1e14 and 1e8 < found.bytes_per_s < 1e13


def test_the_best_of_several_runs_counts_without_the_first():
    waits = iter([0.0, 0.03, 0.01, 0.02, 0.02])
    device = torch.device("cpu")
    assert 0.009 < best_seconds(lambda: time.sleep(next(waits)), device, most_seconds=0.05) < 0.02


def test_the_expected_rates_of_a_card_are_a_fraction_of_its_data_sheet():
    card = CARDS["3090"]
    assert card.expected("bf16").flops_per_s == pytest.approx(0.4 * 71e12)
    assert card.expected("fp32").flops_per_s == pytest.approx(0.4 * 35.6e12)
    assert card.expected("fp32").bytes_per_s == pytest.approx(0.6 * 936e9)
