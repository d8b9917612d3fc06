"""Files of every type and sets of every known format give the same examples; an error names the location."""

import csv
import json
import math
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from tercet.config.lm import Source
from tercet.errors import InputError
from tercet.lm.data.examples import Example, Message
from tercet.lm.data.formats import RowReader
from tercet.lm.data.sources import Reading, read
from tercet.lm.data.turns import parse_transcript

HH = "\n\nHuman: Is tea good?\n\nAssistant: It is.\n\nHuman: Why?\n\nAssistant:"
HH_TURNS = (Message("user", "Is tea good?"), Message("assistant", "It is."), Message("user", "Why?"))
WHY = (Message("user", "Why?"),)
Rows = list[dict[str, Any]]  # Any: any JSON


def reading(path: Path, columns: dict[str, str] | None = None, *, needs_response: bool = True) -> Reading:
    return read(Source.model_validate(str(path)), name="toy", columns=columns or {}, needs_response=needs_response)


def jsonl(path: Path, rows: Rows) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def only(path: Path, columns: dict[str, str] | None = None) -> Example:
    (example,) = reading(path, columns).examples
    return example


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder laid out like a set on the hub, whose cache stays in the test."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "org" / "set"
    folder.mkdir(parents=True)
    return folder


# ready-made sets: the columns as the hub has them


READY_MADE: dict[str, tuple[dict[str, Any], tuple[Message, ...], str, str | None]] = {
    "Dahoas/rm-static": (
        {"prompt": HH, "response": " So.", "chosen": " So.", "rejected": " No."},
        HH_TURNS,
        "So.",
        "No.",
    ),
    "Dahoas/full-hh-rlhf": (
        {"prompt": HH, "response": "So.", "chosen": "So.", "rejected": "No."},
        HH_TURNS,
        "So.",
        "No.",
    ),
    "Dahoas/synthetic-instruct-gptj-pairwise": (
        {"prompt": "Why?", "chosen": "So.", "rejected": "No."},
        WHY,
        "So.",
        "No.",
    ),
    "yitingxie/rlhf-reward-datasets": (
        {"prompt": "\n\nHuman: Why?\n\n", "chosen": "Assistant: So.", "rejected": "Assistant: No."},
        WHY,
        "So.",
        "No.",
    ),
    "openai/webgpt_comparisons": (
        {
            "question": {"dataset": "eli5", "id": "1", "full_text": "Why?"},
            "quotes_0": {"title": [], "extract": []},
            "answer_0": "No.",
            "tokens_0": {"prefix": [1], "completion": [2]},
            "score_0": -0.5,
            "quotes_1": {"title": [], "extract": []},
            "answer_1": "So.",
            "tokens_1": {"prefix": [1], "completion": [2]},
            "score_1": 0.5,
        },
        WHY,
        "So.",
        "No.",
    ),
    "stanfordnlp/SHP": (
        {
            "post_id": "x",
            "domain": "askculinary_train",
            "history": "Why?",
            "human_ref_A": "No.",
            "human_ref_B": "So.",
            "labels": 0,
            "score_ratio": 2.0,
        },
        WHY,
        "So.",
        "No.",
    ),
    "Anthropic/hh-rlhf": (
        {"chosen": f"{HH} So.", "rejected": f"{HH} No."},
        HH_TURNS,
        "So.",
        "No.",
    ),
}


@pytest.mark.parametrize("name", READY_MADE)
def test_the_ready_made_sets_are_read_from_their_own_columns(name: str, tmp_path: Path) -> None:
    row, messages, chosen, rejected = READY_MADE[name]
    example = only(jsonl(tmp_path / "set.jsonl", [row]))
    assert (example.messages, example.chosen, example.rejected) == (messages, chosen, rejected)
    assert (example.source, example.location) == ("toy", f"{tmp_path}/set.jsonl:1")


def test_a_hub_set_is_read_by_the_same_rules_as_a_file(hub: Path) -> None:
    rows = [row for row, *_ in (READY_MADE["Dahoas/rm-static"], READY_MADE["Dahoas/full-hh-rlhf"])]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), hub / "train-00000.parquet")
    examples = reading(hub).examples
    assert [(e.messages, e.chosen, e.rejected) for e in examples] == [(HH_TURNS, "So.", "No.")] * 2
    assert [e.location for e in examples] == [f"{hub}/train-00000.parquet[{row}]" for row in (0, 1)]


def test_a_hub_set_keeps_ties_without_preference_and_counts_blank_rows(hub: Path) -> None:
    jsonl(
        hub / "train.jsonl",
        [
            {"prompt": "Why?", "chosen": "So.", "rejected": "So."},
            {"prompt": "Why?", "chosen": "", "rejected": "No."},
            {"prompt": "How?", "chosen": "So.", "rejected": "No."},
        ],
    )
    result = reading(hub)
    assert [(e.prompt, e.rejected) for e in result.examples] == [("Why?", None), ("How?", "No.")]
    assert result.dropped == {"no prompt or no response": 1}


@pytest.mark.parametrize("where", ["file", "hub"])
def test_a_row_that_says_tie_is_no_preference_even_if_it_has_both_responses(
    hub: Path, tmp_path: Path, where: str
) -> None:
    path = hub if where == "hub" else tmp_path / "set.jsonl"
    row = {"prompt": "How?", "chosen": "So.", "rejected": "No."}
    jsonl(path / "train.jsonl" if where == "hub" else path, [{**row, "tie": True}, {**row, "tie": False}, row])
    result = reading(path)
    assert [(e.chosen, e.rejected) for e in result.examples] == [("So.", "No.")] * 2
    assert result.dropped == {"neither answer was called better": 1}


# other shapes


@pytest.mark.parametrize(
    ("row", "messages", "chosen", "rejected"),
    [
        ({"prompt": "Why?", "chosen": "So."}, WHY, "So.", None),
        ({"prompt": "Why?", "response": "So."}, WHY, "So.", None),
        ({"prompt": "Why?", "completion": " So."}, WHY, "So.", None),
        ({"prompt": "1+1", "chosen": 2, "rejected": 3}, (Message("user", "1+1"),), "2", "3"),
        ({"instruction": "Why?", "input": "", "output": "So."}, WHY, "So.", None),
        (
            {"instruction": "Add", "input": "1 2", "output": "3"},
            (Message("user", "Add\n\n1 2"),),
            "3",
            None,
        ),
        (
            {"messages": [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}]},
            WHY,
            "So.",
            None,
        ),
        (
            {"messages": [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "So."}]},
            WHY,
            "So.",
            None,
        ),
        (
            {
                "prompt": [{"role": "user", "content": [{"type": "text", "text": "Why?"}]}],
                "chosen": [{"role": "assistant", "content": "So."}],
                "rejected": [{"role": "assistant", "content": "No."}],
            },
            WHY,
            "So.",
            "No.",
        ),
        (
            {
                "chosen": [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}],
                "rejected": [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "No."}],
            },
            WHY,
            "So.",
            "No.",
        ),
        # the answers begin alike, and the prompt ends before that
        (
            {"chosen": f"{HH} Sooner.", "rejected": f"{HH} Soon."},
            HH_TURNS,
            "Sooner.",
            "Soon.",
        ),
    ],
)
def test_columns_tell_what_a_row_holds(
    row: dict[str, Any],  # Any: any JSON
    messages: tuple[Message, ...],
    chosen: str,
    rejected: str | None,
    tmp_path: Path,
) -> None:
    example = only(jsonl(tmp_path / "set.jsonl", [row]))
    assert (example.messages, example.chosen, example.rejected) == (messages, chosen, rejected)


def test_webgpt_draws_are_ties_and_shp_label_1_prefers_a(tmp_path: Path) -> None:
    draw = {**READY_MADE["openai/webgpt_comparisons"][0], "score_0": 0.0, "score_1": 0.0}
    assert only(jsonl(tmp_path / "draw.jsonl", [draw])).rejected is None
    shp = {**READY_MADE["stanfordnlp/SHP"][0], "labels": 1}
    assert only(jsonl(tmp_path / "shp.jsonl", [shp])).chosen == "No."


def test_what_makes_no_pair_is_refused_in_a_file_and_left_out_of_a_hub_set(tmp_path: Path, hub: Path) -> None:
    early = {"chosen": f"{HH} So.\n\nHuman: And?\n\nAssistant: Yes.", "rejected": f"{HH} No."}
    rows = [{"chosen": f"{HH} So.", "rejected": f"{HH} No."}, early, {"chosen": HH, "rejected": f"{HH} No."}, early]
    with pytest.raises(
        InputError, match=r"differ before the last response in 2 of 4 rows \(first: .*set\.jsonl:2\); both"
    ):
        reading(jsonl(tmp_path / "set.jsonl", rows))
    jsonl(hub / "train.jsonl", rows)
    result = reading(hub)
    assert [(e.messages, e.chosen, e.rejected) for e in result.examples] == [(HH_TURNS, "So.", "No.")]
    assert result.dropped == {
        "chosen and rejected differ before the last response": 2,
        "chosen or rejected does not end with a response": 1,
    }


def test_a_hub_set_of_which_no_row_can_be_used_says_why(hub: Path) -> None:
    jsonl(hub / "train.jsonl", [{"chosen": HH, "rejected": f"{HH} No."}] * 3)
    with pytest.raises(InputError, match=r"does not end with a response in 3 of 3 rows \(first: .*train.jsonl:1\)"):
        reading(hub)


def test_columns_and_keys_that_nothing_reads_are_named_if_they_hold_something(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "Why?", "weight": 0}, {"role": "assistant", "content": "So.", "name": ""}]
    row = {"messages": turns, "prompt": "Why?", "topic": "x", "empty": "", "none": None, "nan": float("nan")}
    assert reading(jsonl(tmp_path / "set.jsonl", [row])).unread == ("prompt", "topic", "weight of messages")
    nested = jsonl(tmp_path / "map.jsonl", [{"q": {"text": "Why?"}, "a": "So.", "b": 1}])
    assert reading(nested, {"prompt": "q.text", "chosen": "a"}).unread == ("b",)


def test_a_column_map_names_anything_else_nested_columns_too(tmp_path: Path) -> None:
    row = {"q": {"text": "Why?"}, "good": "So.", "rejected": "No."}
    example = only(jsonl(tmp_path / "set.jsonl", [row]), {"prompt": "q.text", "chosen": "good"})
    assert (example.messages, example.chosen, example.rejected) == (WHY, "So.", "No.")


def test_prompts_alone_serve_where_no_answer_is_needed(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "prompts.jsonl", [{"prompt": "Why?"}])
    (example,) = reading(path, needs_response=False).examples
    assert (example.prompt, example.chosen, example.rejected) == ("Why?", "", None)
    with pytest.raises(InputError, match=r"no response in 1 of 1 rows \(first: .*prompts.jsonl:1, columns prompt\)"):
        reading(path)


def test_transcripts_join_turns_of_one_speaker_and_keep_what_stands_in_front() -> None:
    text = "Rules.\n\nHuman: a\n\nHuman: b\n\nAssistant: c\nHuman: no turn\n\nAssistant:"
    assert parse_transcript(text) == (
        Message("system", "Rules."),
        Message("user", "a\n\nb"),
        Message("assistant", "c\nHuman: no turn"),
    )


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (10**313, "labels = 1000.* is not a finite number"),
        (math.inf, "labels = inf is not a finite number"),
        ("nan", "labels = 'nan' is not a finite number"),
        (True, "labels = True is not a finite number"),
        ([1], r"labels = \[1\] is not a finite number"),
        (2, "labels = 2 is neither 0 nor 1"),
        (math.nan, "no score says which response is better"),
        ("", "no score says which response is better"),
    ],
)
def test_a_label_that_says_nothing_makes_no_preference(label: object, message: str) -> None:
    row = {"history": "Why?", "human_ref_A": "So.", "human_ref_B": "No.", "labels": label}
    with pytest.raises(InputError, match=message):
        RowReader({}).parts(row)
    scores = {"question": "Why?", "answer_0": "So.", "answer_1": "No.", "score_0": label, "score_1": 0}
    if label != 2:
        with pytest.raises(InputError, match=message.replace("labels", "score_0")):
            RowReader({}).parts(scores)


# file types


@pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "parquet", "json lines named .json", "jsonl with BOM"])
def test_every_file_type_gives_the_same_examples(kind: str, tmp_path: Path) -> None:
    rows = [{"prompt": f"Why {i}?\nSay, please", "chosen": 'So, "so".', "rejected": "Nö."} for i in range(3)]
    path = tmp_path / f"set.{'json' if 'named' in kind else kind.split()[0]}"
    if kind == "json":
        path.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    elif kind == "csv":
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, ["prompt", "chosen", "rejected"])
            writer.writeheader()
            writer.writerows(rows)
    elif kind == "parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    else:
        bom = "\ufeff" if "BOM" in kind else ""
        path.write_text(bom + "\n".join(map(json.dumps, rows)) + "\n\n", encoding="utf-8")
    examples = reading(path).examples
    assert [(e.prompt, e.chosen, e.rejected) for e in examples] == [
        (f"Why {i}?\nSay, please", 'So, "so".', "Nö.") for i in range(3)
    ]
    second = {"json": "[1]", "csv": ":4", "parquet": "[1]"}.get(kind, ":2")  # a CSV row here spans two lines
    assert examples[1].location == f"{path}{second}"


# what is wrong, and where


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", '{"prompt": "a", "chosen": "b"}\n{"prompt": \n', r"a\.jsonl:2: invalid JSON"),
        ("a.jsonl", "[1]\n", r"a\.jsonl:1: expected an object"),
        ("a.jsonl", "null\n", r"a\.jsonl:1: expected an object with columns, found null; write"),
        ("a.jsonl", '[\n{"prompt": "a"}\n]', r"a\.jsonl:1: expected an object, found a list; name a file .* \.json$"),
        ("a.json", '[{"prompt": "a"},\n oops]', r"a\.json:2: invalid JSON"),
        ("a.json", "3", r"a\.json: holds 3; a \.json file is a list"),
        ("a.jsonl", "\n\n", r"a\.jsonl: the set is empty"),
        ("a.csv", "prompt,chosen\n", r"a\.csv: the set is empty"),
        ("a.csv", "prompt,chosen\na,b\nc\n", r"a\.csv:3: the row has more or fewer fields .* in quotes"),
        ("a.csv", 'prompt,chosen\na,b\n"c,d\n', r"a\.csv:3: broken CSV .* write its own twice"),
        ("a.parquet", "PAR1 not", r"a\.parquet: no readable Parquet"),
        ("a.jsonl", '{"q": "a", "good": "b"}', r"a\.jsonl:1: no prompt: the columns are q, good; map them"),
        ("a.jsonl", '{"prompt": "", "chosen": "b"}', r"no prompt or no response in 1 of 1 rows"),
        ("a.jsonl", '{"prompt": "a", "chosen": {"b": 1}}', r"a\.jsonl:1: column chosen: expected text, found dict"),
        (
            "a.jsonl",
            '{"messages": [{"role": "judge", "content": "b"}]}',
            r"a\.jsonl:1: column messages: the message role 'judge'",
        ),
        ("a.jsonl", '{"chosen": "b", "rejected": "c"}', r"a\.jsonl:1: no prompt: there is no column prompt"),
    ],
)
def test_what_is_wrong_is_refused_with_its_place(name: str, content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        reading(tmp_path / name)


def test_equal_answers_are_counted_and_the_first_is_named(tmp_path: Path) -> None:
    rows = [{"prompt": f"{i}", "chosen": "So.", "rejected": "So. " if i in {1, 3} else "No."} for i in range(5)]
    message = r"chosen == rejected in 2 of 5 rows \(first: .*set.jsonl:2\); drop them or relabel them"
    with pytest.raises(InputError, match=message):
        reading(jsonl(tmp_path / "set.jsonl", rows))


def test_a_mapped_column_that_is_missing_is_named_with_those_there(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "set.jsonl", [{"prompt": "a", "good": "b"}])
    with pytest.raises(
        InputError, match=r"no column 'best', which data\.columns gives for chosen; there are prompt, good"
    ):
        reading(path, {"chosen": "best"})
    with pytest.raises(
        InputError, match="has the key 'answer'; the known keys are prompt, chosen, rejected, messages, system, history"
    ):
        reading(path, {"answer": "good"})


def test_a_missing_file_names_the_nearest(tmp_path: Path) -> None:
    jsonl(tmp_path / "pairs.jsonl", [])
    with pytest.raises(InputError, match=r"there is no such file; beside it are pairs\.jsonl"):
        reading(tmp_path / "pair.jsonl")
    with pytest.raises(InputError, match="no such file, and no folder"):
        reading(tmp_path / "nowhere" / "pair.jsonl")
    with pytest.raises(InputError, match="neither a file, nor a folder, nor a hub id"):
        reading(tmp_path / "no such thing")


def test_text_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes('{"prompt": "ö"}'.encode("latin-1"))
    with pytest.raises(InputError, match=r"a\.jsonl:1: the text is not UTF-8"):
        reading(tmp_path / "a.jsonl")


@pytest.mark.parametrize("key", ["split", "config"])
def test_a_part_that_a_set_does_not_have_is_refused(key: str, tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", [{"prompt": "Why?"}])
    for given in (str(path), "chatterbot"):
        source = Source.model_validate({"path": given, key: "test"})
        with pytest.raises(InputError, match=rf"{given}: has no {key} 'test'.*leave {key} out"):
            read(source, name="toy", columns={}, needs_response=False)


def test_a_hub_set_out_of_reach_is_one_clear_message() -> None:
    with pytest.raises(InputError, match="nobody/nothing: cannot be read as the hub set with split 'train'"):
        read(Source.model_validate("nobody/nothing"), name="toy", columns={}, needs_response=False)
