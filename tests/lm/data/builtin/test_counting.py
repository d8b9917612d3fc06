"""The built-in set whose answers can be checked: each answer counts as its question asks."""

import re

from tercet.config.lm import DataConfig, Source
from tercet.lm.data.builtin.counting import read_counting
from tercet.lm.data.columns import columns_of
from tercet.lm.data.sources import read
from tercet.lm.data.splits import flat, step_examples
from tercet.lm.preferences.functions import call_function
from tercet.lm.preferences.verify import exact_match


def test_every_answer_counts_from_the_first_number_to_the_last() -> None:
    examples = read_counting("counting")
    assert len(examples) == len({e.key for e in examples}) == 285
    for example in examples:
        found = re.fullmatch(r"Count from ([0-9]+) to ([0-9]+)\.", example.prompt)
        assert found is not None
        numbers = range(int(found[1]), int(found[2]) + 1)
        assert example.chosen == ", ".join(map(str, numbers)) and 3 <= len(numbers) <= 5 and numbers[-1] < 100
        assert not example.extra


def test_its_answers_are_right_by_exact_match_and_others_are_not() -> None:
    config = DataConfig.model_validate({"train": ["counting"], "eval_fraction": 0.3})
    examples = flat(step_examples(config, "ppo", ("answer",)).held_out)
    prompts, columns = [e.prompt for e in examples], columns_of(examples)
    assert call_function(exact_match, prompts, [e.chosen for e in examples], columns).total == [1.0] * len(examples)
    others = [f"Sure! {e.chosen}" for e in examples]
    assert call_function(exact_match, prompts, others, columns).total == [0.0] * len(examples)
    assert read(Source(path="counting"), name="c", columns={}, needs_response=True).examples
