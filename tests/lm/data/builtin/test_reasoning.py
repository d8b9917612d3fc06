"""Tasks of reasoning-gym are data sets, and each response is scored by its own task on its own question."""

from importlib.util import find_spec

import pytest

from tercet.config.lm import DataConfig, Source
from tercet.errors import InputError
from tercet.lm.data.builtin.reasoning import read_task, score_answer
from tercet.lm.data.columns import columns_of
from tercet.lm.data.sources import read
from tercet.lm.data.splits import flat, step_examples
from tercet.lm.preferences.functions import call_function
from tercet.lm.preferences.verify import exact_match, reasoning_gym

installed = pytest.mark.skipif(find_spec("reasoning_gym") is None, reason="reasoning-gym is not installed")
TASKS = ("chain_sum", "leg_counting", "countdown", "spell_backward")


@pytest.mark.skipif(find_spec("reasoning_gym") is not None, reason="reasoning-gym is installed")
def test_a_missing_package_is_named() -> None:
    with pytest.raises(InputError, match=r'reasoning_gym:gcd: needs a package: pip install "tercet\[reasoning\]"'):
        read(Source(path="reasoning_gym:gcd"), name="gcd", columns={}, needs_response=False)


@installed
@pytest.mark.parametrize("task", TASKS)
def test_a_task_scores_its_own_answers(task: str) -> None:
    sources = [{"path": f"reasoning_gym:{task}", "config": "size: 40"}]
    config = DataConfig.model_validate({"train": sources, "eval_fraction": 0.25})
    examples = step_examples(config, "ppo", ("answer", "entry"))
    some = [*flat(examples.train)[:8], *flat(examples.held_out)[:4]]
    prompts, columns = [example.prompt for example in some], columns_of(some)
    answers = [f"Let me think.\n<answer>{answer}</answer>" for answer in columns["answer"]]
    assert call_function(reasoning_gym, prompts, answers, columns).total == [1.0] * len(some)
    assert call_function(exact_match, prompts, answers, columns).total == [1.0] * len(some)
    wrong = call_function(reasoning_gym, prompts, ["no idea"] * len(some), columns).total
    assert max(wrong) < 0.5
    assert flat(step_examples(config, "sft").train)[0].chosen  # SFT imitates the answer


@installed
def test_settings_change_the_questions_and_a_seed_keeps_them() -> None:
    def questions(config: str) -> list[str]:
        return [e.prompt for e in read_task("reasoning_gym:chain_sum", config, name="a", columns=())]

    plain = questions("size: 5")
    assert len(plain) == 5 and questions("{size: 5, seed: 0}") == plain
    assert questions("{size: 5, seed: 1}") != plain and questions("{size: 5, min_terms: 5, max_terms: 5}") != plain


@installed
def test_unknown_tasks_and_settings_are_refused_and_a_question_that_has_changed() -> None:
    with pytest.raises(InputError, match=r"chain_sums: reasoning-gym has no such task; it has .*chain_sum"):
        read_task("reasoning_gym:chain_sums", "", name="a", columns=())
    for config in ("no_such: 1", "{min_terms: 9, max_terms: 2}", "{", "size"):
        with pytest.raises(InputError, match=r"reasoning_gym:chain_sum: config=.* is refused .* such as `size: 1000`"):
            read_task("reasoning_gym:chain_sum", config, name="a", columns=())
    entry = read_task("reasoning_gym:chain_sum", "size: 2", name="a", columns=("entry",))[1].columns["entry"]
    with pytest.raises(InputError, match=r"reasoning_gym:chain_sum\[1\]: is another question"):
        score_answer("What is 1 + 1?", "2", entry)
