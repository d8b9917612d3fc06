"""The work of a benchmark: prompts and responses of the lengths that it names."""

import pytest
import torch

from tercet.lm.models.roles import load_policy
from tercet.lm.plan.bench import EOS, FIRST_WORD, Work, make_eos_likely, networks_of, prompts

SMALL = {"layers": 1, "hidden": 64, "vocab": 500}


def test_prompts_of_a_step_are_the_same_in_every_run_and_differ_between_steps():
    work = Work(batch=4, prompt=16, **SMALL)
    assert prompts(work, 0) == prompts(work, 0) != prompts(work, 1)
    assert [len(prompt) for prompt in prompts(work, 0)] == [16] * 4
    lengths = {len(prompt) for prompt in prompts(Work("real", batch=500, prompt=16, **SMALL), 0)}
    assert lengths == set(range(8, 33))
    assert min(min(prompt) for prompt in prompts(work, 0)) >= FIRST_WORD


def test_eos_has_the_probability_that_gives_the_mean_length():
    model = load_policy(networks_of(Work(**SMALL))).model
    make_eos_likely(model, mean=20)
    with torch.no_grad():
        logits = model(torch.tensor([[5, 6, 7, 8]])).logits
    assert float(logits.softmax(-1)[..., EOS].mean()) == pytest.approx(1 / 20, rel=0.2)
