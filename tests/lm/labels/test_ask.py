"""Questions about data sets and about stages: sides, order, what was asked before, and which are disputed."""

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest

from tercet.config.load import load_lm_config
from tercet.errors import InputError
from tercet.feedback.answers import AnswerBook
from tercet.feedback.pairs import pairs_of, read_question_rows
from tercet.feedback.sheets import Kind, Sheet
from tercet.lm.data.examples import Message
from tercet.lm.labels.ask import ask, margins_of, most_disputed
from tercet.lm.labels.sources import OpenRun, Pair, StageOfRun, Text, sheet_name
from tercet.lm.pipeline import STEPS
from tercet.runs.folder import RunFolder

SMALL = "sft.max_steps=1 sft.num_eval=8 reward.num_sampled_pairs=12 reward.max_steps=2 ppo.max_response_tokens=6"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with an SFT model and a reward model."""
    path = tmp_path_factory.mktemp("labels") / "mine"
    config = load_lm_config("tiny", SMALL.split())
    with RunFolder.open(path, config, preset="tiny") as folder:
        for name in ("sft", "reward"):
            STEPS[name](folder, config)
    return path


def written(path: Path, num: int = 30) -> Path:
    rows = [{"prompt": f"Question {i}", "chosen": f"good {i}", "rejected": f"bad {i}"} for i in range(num)]
    path.write_text("".join(json.dumps(row | {"rejected_ended": i % 2 == 0}) + "\n" for i, row in enumerate(rows)))
    return path


def stem(sheet: Sheet) -> str:
    """The name of a sheet without the digest of its sources."""
    return sheet.path.name.rpartition("-")[0]


def answer(sheet: Sheet, word: str) -> None:
    with AnswerBook(sheet.path.parent) as book:
        for index in range(len(sheet.questions)):
            book.write(sheet.key(index), word, "Ana")


def test_a_file_is_asked_part_by_part_with_the_better_answer_on_either_side(tmp_path: Path) -> None:
    file, place = written(tmp_path / "my pairs.jsonl"), tmp_path / "labels"
    first = ask(place, [str(file)], "answers", 20, disputed=False)
    assert (first.path.parent, stem(first)) == (place / "feedback", "asked-my-pairs")
    again = ask(place, [str(file)], "answers", 7, disputed=False)
    assert again == first  # it goes on while a question is open
    sides = [question["left"].startswith("good") for question in first.questions]
    assert 4 <= sum(sides) <= 16
    assert first.questions != sorted(first.questions, key=lambda one: one["prompt"][0]["text"])  # in random order
    answer(first, "left")
    rest = ask(place, [str(file)], "answers", 20, disputed=False)
    assert rest.path.name == f"{first.path.name}-part-2"
    prompts = [question["prompt"][0]["text"] for sheet in (first, rest) for question in sheet.questions]
    assert sorted(prompts) == sorted(f"Question {i}" for i in range(30))
    for question, row in zip(rest.questions, read_question_rows(rest), strict=True):
        good, bad = ("chosen", "rejected") if question["left"].startswith("good") else ("rejected", "chosen")
        assert (row[f"{good}_ended"], row[f"{bad}_ended"]) == (True, int(row[bad].split()[1]) % 2 == 0)
    answer(rest, "right")
    with pytest.raises(InputError, match="no pair is left"):
        ask(place, [str(file)], "answers", 20, disputed=False)


def test_an_open_sheet_about_another_source_is_not_taken_for_this_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "labels"
    for name in "ab":
        (tmp_path / name).mkdir()
    first = ask(place, [str(written(tmp_path / "a" / "pairs.jsonl", 3))], "answers", 5, disputed=False)
    second = ask(place, [str(written(tmp_path / "b" / "pairs.jsonl", 4))], "answers", 5, disputed=False)
    assert (len(first.questions), len(second.questions)) == (3, 4)
    monkeypatch.chdir(tmp_path / "b")
    assert ask(place, ["pairs.jsonl"], "answers", 5, disputed=False) == second
    # neither the kind nor a number at the end of a name makes two sources one
    sources = [["sft", "ppo"], ["sft", "ppo-1"], ["sft"], ["ppo"], ["thumbs"], ["r:sft"], ["q/r:sft"], ["r-sft"]]
    names = {sheet_name("asked", names, kind) for names in sources for kind in get_args(Kind)}
    assert len(names) == len(sources) * len(get_args(Kind))
    assert not any(re.fullmatch(rf"{one}(-part-\d+)?", two) for one in names for two in names - {one})


def test_thumbs_ask_both_answers_to_a_prompt_apart_and_make_pairs(tmp_path: Path) -> None:
    file, place = written(tmp_path / "pairs.jsonl"), tmp_path / "labels"
    sheet = ask(place, [str(file)], "thumbs", 10, disputed=False)
    assert (stem(sheet), sheet.kind, len(sheet.questions)) == ("asked-pairs-thumbs", "thumbs", 10)
    prompts = [question["prompt"][0]["text"] for question in sheet.questions]
    assert len(set(prompts)) == 5
    with AnswerBook(sheet.path.parent) as book:
        for index, question in enumerate(sheet.questions):
            book.write(sheet.key(index), "up" if question["answer"].startswith("good") else "down", "Ana")
    pairs = pairs_of(sheet)
    assert len(pairs) == 5
    assert all(pair["chosen"].replace("good", "bad") == pair["rejected"] for pair in pairs)
    assert stem(ask(place, [str(file)], "answers", 4, disputed=False)) == "asked-pairs"


def test_two_stages_answer_the_same_prompts_and_are_named(run: Path) -> None:
    sheet = ask(run, ["base", "sft"], "answers", 6, disputed=False)
    assert stem(sheet) == "asked-base-sft"
    rows = read_question_rows(sheet)
    assert 3 <= len(rows) <= 6
    assert all({row["chosen_stage"], row["rejected_stage"]} == {"base", "sft"} for row in rows)
    assert all(row["chosen"] != row["rejected"] for row in rows)
    answer(sheet, "left")
    assert {pair["chosen_stage"] for pair in pairs_of(sheet)} <= {"base", "sft"}
    more = ask(run, ["base", "sft"], "answers", 6, disputed=False)
    assert more.path.name == f"{sheet.path.name}-part-2"
    assert {str(row["messages"]) for row in read_question_rows(more)} != {str(row["messages"]) for row in rows}


def test_one_stage_answers_twice_and_a_stage_of_another_run_is_named_by_its_run(run: Path) -> None:
    rows = read_question_rows(ask(run, ["sft"], "answers", 4, disputed=False))
    assert all(row["chosen_stage"] == row["rejected_stage"] == "sft" for row in rows)
    other = f"{run}:base"
    sheet = ask(run, ["sft", other], "answers", 4, disputed=False)
    assert stem(sheet) == "asked-sft-mine-base"
    assert {read_question_rows(sheet)[0][f"{name}_stage"] for name in ("chosen", "rejected")} == {"sft", other}


@pytest.mark.parametrize(
    ("names", "wrong"),
    [
        (["ppo"], "has the stages base, sft"),
        (["ppo-1", "sft"], "has the stages base, sft"),
        (["critic"], "critic: neither a data set nor a stage"),
        (["sft", "base", "sft"], "give one data set, or one stage"),
        (["sft", "pairs.jsonl"], "give one data set, or one stage"),
        (["missing.jsonl"], "missing.jsonl: there is no such file"),
        (["nowhere:sft"], "nowhere: not a run folder"),
        (["chatterbot"], "has no pairs to compare"),
    ],
)
def test_what_cannot_be_asked_about_is_refused(run: Path, names: Sequence[str], wrong: str) -> None:
    with pytest.raises(InputError, match=wrong):
        ask(run, names, "answers", 4, disputed=False)


def test_without_a_reward_model_nothing_is_disputed(tmp_path: Path) -> None:
    config = load_lm_config("tiny", SMALL.split())
    with RunFolder.open(tmp_path / "run", config, preset="tiny"):
        pass
    with pytest.raises(InputError, match="needs a reward model"):
        ask(tmp_path / "run", [str(written(tmp_path / "pairs.jsonl"))], "answers", 4, disputed=True)


def test_the_pairs_of_which_the_reward_model_is_least_sure_come_first(run: Path, tmp_path: Path) -> None:
    file = written(tmp_path / "unsure.jsonl", 12)
    opened = OpenRun.at(run)
    sheet = ask(run, [str(file)], "answers", 3, disputed=True)
    pairs = [
        Pair((Message("user", f"Question {i}"),), Text(f"good {i}", True), Text(f"bad {i}", i % 2 == 0))
        for i in range(12)
    ]
    margins = margins_of(pairs, [opened])[0].abs()
    least = [pairs[i].messages[0].text for i in margins.argsort()[:3].tolist()]
    assert [question["prompt"][0]["text"] for question in sheet.questions] == least
    # by hand: one margin is that of the scores of the run's reward model
    from tercet.lm.serving.scores import Scores
    from tercet.lm.stages import model_of

    scores = Scores(opened.config, model_of(opened.folder, "reward"), opened.encoder)
    first, second = (
        scores.of(pairs[1].messages, text.text, ended=text.ended).score for text in (pairs[1].first, pairs[1].second)
    )
    assert float(margins_of(pairs, [opened])[0, 1]) == pytest.approx(first - second, abs=1e-4)


def test_several_reward_models_dispute_where_they_differ() -> None:
    import torch

    pairs = [Pair((Message("user", name),), Text("a", True), Text("b", True)) for name in ("agree", "differ", "unsure")]
    margins = torch.tensor([[3.0, 2.0, 0.0], [3.0, -2.0, 0.0]])
    assert most_disputed(pairs, margins)[0].messages[0].text == "differ"


def test_a_stage_is_found_by_its_name(run: Path) -> None:
    found: Any = StageOfRun.of("sft", run)
    assert (found.name, found.stage.name) == ("sft", "sft")
    assert StageOfRun.of("pairs.jsonl", run) is None
    assert replace(found, name="x").name == "x"
