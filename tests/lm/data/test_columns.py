"""Score functions get the columns that they name, each value with its own prompt."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from tercet.config.load import load_lm_config
from tercet.errors import InputError
from tercet.lm.data.columns import Takes, check_columns, columns_of
from tercet.lm.data.digests import digests
from tercet.lm.data.splits import flat, step_examples

Row = dict[str, Any]  # Any: JSON
COLUMNS = {"answer": [1, 2], "level": ["a", "b"]}
TEXTS = (["p", "q"], ["r", "s"])
PROMPTS, RESPONSES = TEXTS


def by_position(prompts: Any, responses: Any, answer: Any) -> None: ...
def other_names(question: Any, text: Any, *, answer: Any) -> None: ...
def legacy(question: Any, responses: Any) -> None: ...
def queries_first(queries: Any, completions: Any) -> None: ...
def one_prompt(prompt: Any, completions: Any, answer: Any) -> None: ...
def two_and_a_default(queries: Any, completions: Any, answer: Any = 0) -> None: ...
def trls_column(level: Any, completions: Any, answer: Any) -> None: ...
def only_two(prompts: Any, answer: Any) -> None: ...
def as_trl(prompts: Any, completions: Any, answer: Any, **columns: Any) -> None: ...
def without_prompts(completions: Any, answer: Any) -> None: ...
def in_another_order(answer: Any, completions: Any, prompts: Any) -> None: ...
def ours_by_name(responses: Any, level: Any) -> None: ...
def with_a_default(prompts: Any, responses: Any, answer: Any = 0, rubric: Any = "") -> None: ...
def missing(prompts: Any, responses: Any, rubric: Any) -> None: ...
def all_of_them(prompts: Any, responses: Any, **columns: Any) -> None: ...
def any_two(*texts: Any) -> None: ...


@pytest.mark.parametrize(
    ("function", "positional", "named"),
    [
        (by_position, TEXTS, {"answer": [1, 2]}),
        (other_names, TEXTS, {"answer": [1, 2]}),
        (legacy, TEXTS, {}),
        (only_two, TEXTS, {}),
        (queries_first, TEXTS, {}),
        (one_prompt, TEXTS, {"answer": [1, 2]}),
        (two_and_a_default, TEXTS, {"answer": [1, 2]}),
        (trls_column, (), {"level": ["a", "b"], "completions": RESPONSES, "answer": [1, 2]}),
        (as_trl, (), {"prompts": PROMPTS, "completions": RESPONSES, **COLUMNS}),
        (without_prompts, (), {"completions": RESPONSES, "answer": [1, 2]}),
        (in_another_order, (), {"prompts": PROMPTS, "completions": RESPONSES, "answer": [1, 2]}),
        (ours_by_name, (), {"responses": RESPONSES, "level": ["a", "b"]}),
        (with_a_default, TEXTS, {"answer": [1, 2]}),
        (missing, TEXTS, {"rubric": [None, None]}),
        (all_of_them, TEXTS, COLUMNS),
        (any_two, TEXTS, {}),
        (max, TEXTS, {}),  # has no signature
    ],
)
def test_the_signature_decides_what_a_function_gets(function: Callable[..., Any], positional: Any, named: Row) -> None:
    given, by_name = Takes.of(function).arguments(*TEXTS, COLUMNS)
    assert (tuple(given), by_name) == (tuple(positional), named)
    function(*given, **by_name)


def test_a_column_named_as_a_text_does_not_replace_it() -> None:
    columns = {"prompts": [1, 2], "completions": [3, 4]}
    for function in (all_of_them, as_trl):
        given, by_name = Takes.of(function).arguments(*TEXTS, columns)
        assert [*given, *by_name.values()].count(PROMPTS) == 1
        function(*given, **by_name)


ROWS = [
    {"prompt": f"What is {i} plus {i}?", "response": f"{2 * i}.", "answer": 2 * i, "info": {"steps": [i, 7]}}
    for i in range(40)
]
MODULE = """
def right(prompts, responses, answer):
    return [0.0 for _ in responses]

def every(prompts, responses, **columns):
    return [0.0 for _ in responses]

def rubric(prompts, responses, rubric):
    return [0.0 for _ in responses]
"""


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the functions above."""
    (tmp_path / "column_rewards.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def write(path: Path, rows: list[Row]) -> Path:
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif path.suffix == ".csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, [key for key in rows[0] if key != "info"], extrasaction="ignore")
            writer.writeheader()
            writer.writerows(rows)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def flat_text(capsys: pytest.CaptureFixture[str]) -> str:
    return " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("kind", [".jsonl", ".csv", ".parquet"])
def test_a_column_stays_with_its_prompt_from_every_kind_of_file(work: Path, kind: str) -> None:
    config = load_lm_config("tiny", [f"data.train=[{write(work / f'toy{kind}', ROWS)}]"])
    examples = flat(step_examples(config.data, "ppo", ("answer",)).train)
    assert len(examples) > 20
    for example in examples:
        answer = 2 * int(example.prompt.split()[2])
        assert example.columns == {"answer": str(answer) if kind == ".csv" else answer}
    assert flat(step_examples(config.data, "ppo").train)[0].columns == {}


def test_every_column_is_read_for_a_function_that_takes_them_all(work: Path) -> None:
    row = ROWS[1] | {"nothing": None, "picture": b"\x89PNG"}
    file = write(work / "toy.parquet", [row, *ROWS[2:]])
    config = load_lm_config("tiny", [f"data.train=[{file}]", "data.eval_fraction=0.0"])
    first = flat(step_examples(config.data, "ppo", ("*",)).train)[0].columns
    assert first == {**ROWS[1], "nothing": None}  # no function has asked for the picture by name
    with pytest.raises(InputError, match=r"toy\.parquet\[0\]: column picture: JSON cannot express b'.*save the column"):
        step_examples(config.data, "ppo", ("picture",))


def test_a_map_names_the_column_of_a_function_also_inside_another(work: Path) -> None:
    file = write(work / "toy.jsonl", ROWS)
    mapped = [f"data.train=[{file}]", "data.columns={label: info.steps, prompt: prompt}"]
    config = load_lm_config("tiny", mapped)
    example = flat(step_examples(config.data, "ppo", ("label",)).train)[0]
    assert example.columns["label"][0] == int(example.prompt.split()[2])
    with pytest.raises(InputError, match=r"key 'label'; the known keys are .*history, and answer, which a function"):
        step_examples(config.data, "ppo", ("answer",))


def test_values_that_a_batch_lacks_are_none(work: Path) -> None:
    rows = [{key: value for key, value in row.items() if key != "answer" or i % 2} for i, row in enumerate(ROWS)]
    config = load_lm_config("tiny", [f"data.train=[{write(work / 'toy.jsonl', rows)}]", "data.eval_fraction=0.0"])
    examples = flat(step_examples(config.data, "ppo", ("answer",)).train)
    assert columns_of(examples[:4])["answer"] == [None, 2, None, 6]
    assert columns_of([]) == {}


def test_a_column_of_no_set_is_refused_and_sets_and_rows_without_a_value_are_reported(
    work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, other = write(work / "one.jsonl", ROWS), write(work / "two.jsonl", [row | {"answer": None} for row in ROWS])
    config = load_lm_config("tiny", [f"data.train=[{one}, {other}]"])
    takes, examples = Takes.of(by_position), step_examples(config.data, "sft", ("answer",))
    check_columns("m:f", takes, {"one": examples.train["one"], "empty": []})
    with pytest.raises(InputError, match=r"^m:f: takes the column 'answer', .* data has: two \(\S+/two\.jsonl\); map"):
        check_columns("m:f", takes, {"two": examples.train["two"], "empty": []})
    assert "m:f" not in capsys.readouterr().out
    check_columns("m:f", takes, dict(examples.train))
    number = len(examples.train["two"])
    assert f"m:f: {number} of {number} examples of the set two have no answer" in flat_text(capsys)
    check_columns("m:f", takes, {"both": [*examples.train["one"], *examples.train["two"][:3]]})
    assert "m:f: 3 of " in (said := flat_text(capsys)) and "have no answer" in said
    check_columns("m:f", Takes.of(with_a_default), dict(examples.train))  # a default value needs no column


def test_a_prompt_with_two_answers_is_reported(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [*ROWS, ROWS[3], ROWS[5] | {"answer": 7}]
    config = load_lm_config("tiny", [f"data.train=[{write(work / 'toy.jsonl', rows)}]", "data.eval_fraction=0.0"])
    step_examples(config.data, "ppo", ("answer",))
    assert "ppo: 1 prompts have rows that differ" in " ".join(capsys.readouterr().out.split())


def test_a_digest_has_the_columns_that_the_functions_of_its_step_take(work: Path) -> None:
    file = write(work / "toy.jsonl", ROWS)

    def all_digests(function: str) -> list[str]:
        reward = f"ppo.reward={{column_rewards:{function}: 1.0}}"
        config = load_lm_config("tiny", [f"data.train=[{file}]", reward])
        return [digests(config, step)["toy"] for step in ("sft", "ppo")]

    right, every, plain = all_digests("right"), all_digests("every"), all_digests("rubric")
    assert right[0] == every[0] == plain[0]  # no function of SFT takes a column
    write(file, [row | {"info": "another"} for row in ROWS])
    assert all_digests("right") == right
    assert all_digests("every")[1] != every[1]
    write(file, [row | {"answer": 0} for row in ROWS])
    assert all_digests("right")[0] == right[0] and all_digests("right")[1] != right[1]
