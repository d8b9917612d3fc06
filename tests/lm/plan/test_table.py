"""The plan as lines of text."""

from dataclasses import replace

import pytest

from tercet.config.load import load_lm_config
from tercet.lm.plan import table
from tercet.lm.plan.plan import plan


def test_a_plan_warns_about_other_work_on_the_machine():
    found = plan(load_lm_config("tiny", []), prompt_tokens=9, response_tokens=3)
    said = ["\n".join(table.lines(replace(found, other_cpus=cpus))) for cpus in (0.05, 1.3)]
    assert ["other work used 1.3 CPUs" in text for text in said] == [False, True]


@pytest.mark.slow
def test_a_plan_says_so_if_no_setting_is_enough():
    found = plan(load_lm_config("opt-1.3b", []), gpu="3090", gpu_gb=1.0)
    text = "\n".join(table.lines(found))
    assert "does not fit" in text and "still too much" in text
