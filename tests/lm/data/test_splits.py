"""Examples are split by their text, and training data is never in held-out data."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tercet.config.lm import DataConfig, Source
from tercet.errors import InputError
from tercet.lm.data.sources import read
from tercet.lm.data.splits import STEPS, Sets, flat, overlap, report_dropped, require_pairs, set_names, step_examples


def write(path: Path, prompts: Sequence[str], *, rejected: bool = True) -> str:
    pair = {"chosen": "So.", **({"rejected": "No."} if rejected else {})}
    path.write_text("".join(json.dumps({"prompt": p, **pair}) + "\n" for p in prompts), encoding="utf-8")
    return str(path)


def config(**settings: Any) -> DataConfig:  # Any: raw values, checked by the config
    return DataConfig.model_validate(settings)


def openings(*parts: Sets) -> set[str]:
    return {example.opening for part in parts for rows in part.values() for example in rows}


def many(name: str, num: int = 2000) -> list[str]:
    return [f"Question {i} of {name}?" for i in range(num)]


def test_held_out_shares_are_as_asked_and_a_quarter_of_them_validates(tmp_path: Path) -> None:
    data = config(train=[write(tmp_path / "a.jsonl", many("a"))], eval_fraction=0.2)
    examples = step_examples(data, "sft")
    sizes = [len(part["a"]) for part in (examples.train, examples.validation, examples.test)]
    assert sum(sizes) == 2000
    # three standard deviations of a binomial of 2000
    assert sizes == [pytest.approx(1600, abs=54), pytest.approx(100, abs=29), pytest.approx(300, abs=48)]


def test_another_split_seed_holds_out_other_prompts(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", many("a"))
    held_out = [
        openings(step_examples(config(train=[file], eval_fraction=0.2, split_seed=seed), "sft").held_out)
        for seed in (0, 1)
    ]
    assert len(held_out[0] & held_out[1]) == pytest.approx(80, abs=27)  # as many as chance says


def test_split_deals_each_prompt_to_one_step_by_weight(tmp_path: Path) -> None:
    data = config(train=[write(tmp_path / "a.jsonl", many("a"))], split="2,4,4", eval_fraction=0.1)
    steps = [step_examples(data, step) for step in STEPS]
    dealt = [openings(examples.train) for examples in steps]
    assert [len(part) for part in dealt] == [
        pytest.approx(360, abs=53),
        pytest.approx(720, abs=65),
        pytest.approx(720, abs=65),
    ]
    assert not dealt[0] & dealt[1] and not dealt[1] & dealt[2] and not dealt[0] & dealt[2]
    assert len({frozenset(openings(e.validation, e.test)) for e in steps}) == 1  # all measure on the same prompts


def test_a_step_without_weight_gets_nothing_and_says_so(tmp_path: Path) -> None:
    data = config(train=[write(tmp_path / "a.jsonl", many("a", 50))], split=[0, 1, 1])
    with pytest.raises(InputError, match=r"data\.split=\[0\.0, 1\.0, 1\.0\] leaves sft nothing"):
        step_examples(data, "sft")
    assert step_examples(data, "ppo").train["a"]


def test_no_split_gives_every_step_all(tmp_path: Path) -> None:
    data = config(train=[write(tmp_path / "a.jsonl", many("a", 60))])
    assert len({frozenset(openings(step_examples(data, step).train)) for step in STEPS}) == 1


def test_all_turns_of_a_conversation_lie_on_one_side(tmp_path: Path) -> None:
    first = [f"\n\nHuman: Question {i}?\n\nAssistant:" for i in range(300)]
    later = [f"\n\nHuman: question {i}\n\nAssistant: So.\n\nHuman: Why?\n\nAssistant:" for i in range(300)]
    data = config(
        sft=[write(tmp_path / "first.jsonl", first)], ppo=[write(tmp_path / "later.jsonl", later)], eval_fraction=0.3
    )
    sft, ppo = step_examples(data, "sft"), step_examples(data, "ppo")
    assert openings(sft.train) == openings(ppo.train)
    assert not openings(sft.train) & openings(ppo.validation, ppo.test)


def test_eval_sets_are_held_out_and_training_drops_what_is_in_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = config(
        train=[write(tmp_path / "a.jsonl", many("a", 100))],
        eval=[write(tmp_path / "b.jsonl", ["question 7 OF a", *many("b", 40)])],
    )
    examples = step_examples(data, "reward")
    assert list(examples.train) == ["a"] and list(examples.test) == ["b"] == list(examples.validation)
    assert len(examples.train["a"]) == 99
    assert examples.dropped == {"also in data.eval": 1}
    assert "reward: examples left out: 1 (also in data.eval)" in capsys.readouterr().out
    assert len(examples.validation["b"]) + len(examples.test["b"]) == 41


def test_the_overlap_counts_held_out_prompts_that_differ_from_training_by_punctuation(tmp_path: Path) -> None:
    train = write(tmp_path / "a.jsonl", [f"Is it {i} today, friend?" for i in range(40)])
    near = write(tmp_path / "b.jsonl", [f"is it {i} today friend" for i in range(30, 50)])
    assert overlap(step_examples(config(train=[train], eval=[near]), "sft")) == 0.5
    assert overlap(step_examples(config(train=[train], eval_fraction=0.2), "sft")) == 0.0
    marks = write(tmp_path / "c.jsonl", ["?!", "...", "?", "!?!"])  # without letters, texts are compared whole
    other = write(tmp_path / "d.jsonl", ["??", "--"])
    assert overlap(step_examples(config(train=[marks], eval=[other]), "sft")) == 0.0


TASKS = ["What is 12 + 3?", "What is 12 - 3?", "What is 1 + 23?", "What is 1.23?", "What is 123?", "What is 1 23?"]
TASKS += ["What is -5 * 2?", "What is 5 * 2?", "Use 3, 4, 12", "Use 3, 41, 2", "Is x = 3?", "Is x < 3?", "Solve 2 / y"]


@pytest.mark.parametrize("held_out", TASKS)
def test_other_numbers_and_signs_are_other_prompts(held_out: str, tmp_path: Path) -> None:
    others = write(tmp_path / "a.jsonl", [task for task in TASKS if task != held_out] + ["Solve 2 y"])
    assert overlap(step_examples(config(train=[others], eval=[write(tmp_path / "b.jsonl", [held_out])]), "sft")) == 0.0


def test_spaces_around_signs_and_punctuation_after_numbers_make_no_other_prompt(tmp_path: Path) -> None:
    train = write(tmp_path / "a.jsonl", ["What is 12 + 3?", "In 1990, who won?", "Use 3, 4, 12."])
    near = write(tmp_path / "b.jsonl", ["what is 12+3", "In 1990 who won", "Use 3,4,12"])
    assert overlap(step_examples(config(train=[train], eval=[near]), "sft")) == 1.0


def test_training_on_the_evaluation_file_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", many("a", 10))
    with pytest.raises(InputError, match=r"every prompt of reward's training sets is in data\.eval too"):
        step_examples(config(train=[path], eval=[path]), "reward")


def test_no_data_for_a_step_is_refused() -> None:
    with pytest.raises(InputError, match=r"name files or sets in data\.train or data\.ppo"):
        step_examples(config(), "ppo")


def test_the_reward_model_gets_pairs_alone_and_ppo_each_prompt_once(tmp_path: Path) -> None:
    rows = [
        {"prompt": "Why?", "chosen": "So.", "rejected": "No."},
        {"prompt": "Why?", "chosen": "Thus.", "rejected": "No."},
        {"prompt": "How?", "chosen": "So."},
    ]
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    data = config(train=[str(path)], eval_fraction=0)
    reward, ppo = step_examples(data, "reward"), step_examples(data, "ppo")
    assert [e.chosen for e in reward.train["a"]] == ["So.", "Thus."]
    assert reward.dropped == {"no preference": 1}
    assert [e.location for e in ppo.train["a"]] == [f"{path}:1", f"{path}:3"]
    assert ppo.dropped == {"repeated prompt": 1}
    require_pairs(reward)


def test_a_set_without_pairs_is_kept_for_sampling_but_refused_where_pairs_are_required(tmp_path: Path) -> None:
    data = config(train=[write(tmp_path / "a.jsonl", many("a", 20), rejected=False)], eval_fraction=0)
    examples = step_examples(data, "reward")
    assert len(examples.train["a"]) == 20
    with pytest.raises(InputError, match=r"set a .* has no rejected responses"):
        require_pairs(examples)


def test_names_of_sets_are_unique() -> None:
    paths = ["x/train.jsonl", "y/train.csv", "Dahoas/rm-static", "chatterbot", "org/v1.5"]
    sources = [*paths, {"path": "z.json", "name": "train"}]
    assert set_names([Source.model_validate(source) for source in sources]) == [
        "train",
        "train-2",
        "rm-static",
        "chatterbot",
        "v1.5",
        "train-3",
    ]


def test_what_a_set_loses_is_said_once_by_all_steps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"prompt": f"Why {i}?", "chosen": "So.", "rejected": "No.", "topic": "x"} for i in range(40)]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    for step in STEPS:
        step_examples(config(train=[{"path": str(tmp_path / "a.jsonl"), "name": "once"}]), step)
    assert capsys.readouterr().out == "once: nothing reads topic\n"


def test_many_columns_are_not_all_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = {"prompt": "Why?", "chosen": "So.", "": "x", "a\nb": "x"} | {f"column{i}": "x" for i in range(100)}
    (tmp_path / "a.jsonl").write_text(json.dumps(row), encoding="utf-8")
    with pytest.raises(InputError, match="column15 and 84 more"):
        step_examples(config(train=[{"path": str(tmp_path / "a.jsonl")}], columns={"prompt": "gone"}), "sft")
    report_dropped("many", read(Source(path=str(tmp_path / "a.jsonl")), name="many", columns={}, needs_response=True))
    assert capsys.readouterr().out.startswith("many: nothing reads '', 'a\\nb', column0, column1,")


def test_a_set_is_called_as_its_file_whatever_its_type() -> None:
    paths = ("x/a.JSONL", "x/b.csv.gz", "org/c.v1", "org/d/")
    assert set_names([Source(path=path) for path in paths]) == ["a", "b", "c.v1", "d"]


def test_a_set_is_read_again_for_the_same_step_only_where_its_file_has_changed(tmp_path: Path) -> None:
    rows = [{"prompt": f"Why {i}?", "chosen": "So.", "rejected": "No."} for i in range(40)]
    file = tmp_path / "a.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    data = config(train=[{"path": str(file)}])
    first = step_examples(data, "sft")
    assert step_examples(data, "sft") is first
    assert step_examples(data, "ppo") is not first
    again = step_examples(data, "sft")
    assert again == first
    file.write_text("\n".join(map(json.dumps, [*rows, {"prompt": "And?", "chosen": "So."}])), encoding="utf-8")
    held = step_examples(data, "sft")
    assert len(flat(held.train)) + len(flat(held.held_out)) == 41
