"""The plan of optimizer steps: how often each row is used, the lengths in a batch, and the seed."""

from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tercet.config.lm import DataConfig, RewardConfig, SftConfig
from tercet.errors import InputError
from tercet.lm.data.batches import Plan, lessons, mixed_pass, plan
from tercet.lm.data.examples import Example, Message
from tercet.train.chance import generator


def planned(lengths: dict[str, list[int]], *, seed: int = 0, **settings: object) -> Plan:
    defaults = {
        "weights": dict.fromkeys(lengths, 1.0),
        "order": "mixed",
        "batch_size": 4,
        "epochs": 1,
        "max_steps": 0,
        "generator": torch.Generator().manual_seed(seed),
    }
    return plan(lengths, **{**defaults, **settings})  # type: ignore[arg-type]  # settings are checked at run time


def counts(result: Plan) -> Counter[int]:
    return Counter(row for rows in result.rows for row in rows)


@settings(deadline=None)
@given(
    sizes=st.lists(st.integers(0, 30), min_size=1, max_size=3), batch_size=st.integers(1, 7), epochs=st.integers(1, 3)
)
def test_every_row_is_seen_once_an_epoch(sizes: list[int], batch_size: int, epochs: int) -> None:
    lengths = {f"set{i}": list(range(size)) for i, size in enumerate(sizes)}
    for order in ("mixed", "sequential"):
        result = planned(lengths, batch_size=batch_size, epochs=epochs, order=order)
        assert counts(result) == dict.fromkeys(range(sum(sizes)), epochs)
        assert all(0 < len(rows) <= batch_size for rows in result.rows)


def test_the_same_chance_gives_the_same_plan_and_other_chance_another() -> None:
    lengths = {"a": list(range(50))}
    assert planned(lengths, seed=1) == planned(lengths, seed=1)
    assert planned(lengths, seed=1) != planned(lengths, seed=2)


def test_batches_hold_rows_of_like_length_but_come_in_mixed_order() -> None:
    lengths = [i % 16 for i in range(64)]
    result = planned({"a": lengths}, batch_size=4)
    spreads = [max(lengths[r] for r in rows) - min(lengths[r] for r in rows) for rows in result.rows]
    assert max(spreads) == 0  # each length occurs four times: one batch each
    order = [lengths[rows[0]] for rows in result.rows]
    assert order != sorted(order)


def test_weights_are_shares_of_a_set() -> None:
    result = planned({"a": [1] * 10, "b": [1] * 10}, weights={"a": 0.5, "b": 2.0})
    seen = counts(result)
    assert sum(seen[row] for row in range(10)) == 5
    assert max(seen[row] for row in range(10)) == 1
    assert [seen[row] for row in range(10, 20)] == [2] * 10


def test_sets_one_after_another_end_their_stages_where_the_next_begins() -> None:
    result = planned({"a": [1] * 8, "b": [1] * 12}, order="sequential", epochs=2)
    assert result.stages == [(3, "a"), (9, "b")]
    assert {row for rows in result.rows[:4] for row in rows} == set(range(8))
    assert {row for rows in result.rows[4:] for row in rows} == set(range(8, 20))


def test_mixed_sets_are_one_stage() -> None:
    assert planned({"a": [1] * 8, "b": [1] * 8}).stages == [(3, "mixed")]
    assert planned({"a": [1] * 8}).stages == [(1, "a")]


def test_max_steps_cuts_the_plan_and_leaves_each_set_its_part() -> None:
    lengths = {"a": [1] * 40, "b": [1] * 120, "c": [1]}
    assert len(planned(lengths, max_steps=7).rows) == 7
    assert planned(lengths, max_steps=8, order="sequential").stages == [(1, "a"), (6, "b"), (7, "c")]
    with pytest.raises(InputError, match="max_steps=2 cannot give each of 3 sets a step"):
        planned(lengths, max_steps=2, order="sequential")
    assert len(planned(lengths, max_steps=10_000).rows) == 41


def test_lessons_number_the_rows_over_all_sets() -> None:
    sets = {
        name: [Example((Message("user", f"{name} {i}"),), "x" * i, None, name, f"{name}[{i}]") for i in range(1, 6)]
        for name in ("a", "b")
    }
    data = DataConfig.model_validate({"train": ["a.jsonl", "b.jsonl"], "order": "sequential"})
    result = lessons(sets, data, SftConfig.model_validate({"batch_size": 5}), step="sft", seed=0)
    taken = [[result.examples[row].source for row in rows] for rows in result.plan.rows]
    assert taken == [["a"] * 5, ["b"] * 5]


def test_the_reward_model_learns_from_all_pairs_of_a_prompt_in_one_step() -> None:
    sizes = {"a": 3, "b": 1, "c": 9, "d": 2, "e": 6}
    pairs = [
        Example((Message("user", prompt),), f"{prompt} {i}" + "x" * i, "no", "set", f"set[{prompt}{i}]")
        for i in range(9)
        for prompt, size in sizes.items()
        if i < size
    ]
    data = DataConfig.model_validate({"train": ["set.jsonl"]})
    result = lessons(
        {"set": pairs}, data, RewardConfig(batch_size=6, epochs=2), step="reward", seed=0, group_prompts=True
    )
    assert counts(result.plan) == dict.fromkeys(range(len(pairs)), 2)
    assert all(len(rows) <= 6 for rows in result.plan.rows)
    steps = [[result.examples[row].prompt for row in rows] for rows in result.plan.rows]
    for prompt, parts in {"a": [3, 3], "b": [1, 1], "c": [3, 3, 6, 6], "d": [2, 2], "e": [6, 6]}.items():
        assert sorted(step.count(prompt) for step in steps if prompt in step) == parts, prompt


def test_pairs_of_different_prompts_are_planned_like_other_examples() -> None:
    pairs = [Example((Message("user", f"{i}"),), "x" * (i % 7), "no", "set", f"set[{i}]") for i in range(40)]
    data = DataConfig.model_validate({"train": ["set.jsonl"]})
    rows = lessons(
        {"set": pairs}, data, RewardConfig(batch_size=6, epochs=2), step="reward", seed=0, group_prompts=True
    ).plan.rows
    lengths = [len(pair.prompt) + max(len(pair.chosen), 2) for pair in pairs]
    chance = generator(0, "reward", "plan")
    assert rows == planned({"set": lengths}, batch_size=6, epochs=2, weights={"set": 1.0}, generator=chance).rows


def test_a_plan_that_no_memory_holds_is_refused_before_it_is_made() -> None:
    sets = {"a": [Example((Message("user", "x"),), "y", None, "a", "a[1]")] * 20_000}
    data = DataConfig.model_validate({"train": ["a.jsonl"]})
    with pytest.raises(InputError, match=r"sft\.epochs=10000: 200000000 examples in all, more than 100000000"):
        lessons(sets, data, SftConfig(epochs=10_000), step="sft", seed=0)
    assert len(lessons(sets, data, SftConfig(epochs=10_000, max_steps=5), step="sft", seed=0).plan.rows) == 5


def test_an_unknown_set_is_a_bug() -> None:
    with pytest.raises(KeyError):
        planned({"a": [1]}, weights={})


@pytest.mark.parametrize("weights", [{"a": 1.0, "b": 1.0}, {"a": 2.0, "b": 0.5}])
def test_a_pass_takes_weight_times_the_rows_of_each_set(weights: dict[str, float]) -> None:
    rows = mixed_pass({"a": [1] * 4, "b": [1] * 6}, weights, torch.Generator().manual_seed(0))
    counts = Counter(rows)
    assert [counts[row] for row in range(4)] == [weights["a"]] * 4
    assert sum(counts[row] for row in range(4, 10)) == 6 * weights["b"]
    assert rows != sorted(rows)
