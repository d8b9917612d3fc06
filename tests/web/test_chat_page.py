"""The chat page over HTTP: what it is told, scores, and pairs."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.web.conftest import answering, call

from tercet.errors import InputError
from tercet.lm.data.examples import Message
from tercet.lm.serving.asks import names_of_runs
from tercet.lm.serving.engine import Engine
from tercet.lm.serving.several import Several
from tercet.web.chat_page import app

HI = [{"role": "user", "content": "Hi"}]
YES = {"stage": "base", "text": "yes", "finish": "stop"}
NO = {"stage": "sft", "text": "no", "finish": "length"}


@pytest.fixture
def port(engine: Engine, tmp_path: Path) -> Iterator[int]:
    with answering(app(engine, tmp_path, "127.0.0.1", debug=True)) as port:
        yield port


def test_the_page_knows_the_run_and_loads_nothing_from_other_sites(port: int, tmp_path: Path) -> None:
    status, page, headers = call(port, "GET", "/")
    assert (status, headers.get_content_type()) == (200, "text/html")
    assert "default-src 'self'" in headers["Content-Security-Policy"]
    assert b"http://" not in page and b"https://" not in page
    about = call(port, "GET", "/about")[1]
    assert (about["run"], about["stages"], about["has_scores"], about["num_pairs"]) == (
        tmp_path.name,
        ["base", "sft"],
        True,
        0,
    )


def test_an_answer_is_scored(port: int, engine: Engine) -> None:
    status, scored, _ = call(port, "POST", "/score", {"messages": HI, "text": "yes", "ended": True})
    assert status == 200
    assert scored["score"] == scored["tokens"][-1][1]
    assert [text for text, _ in scored["tokens"]] == ["y", "e", "s", "</s>"]
    assert call(port, "POST", "/score", {"messages": HI, "text": ""})[0] == 400
    assert call(port, "POST", "/score", {"messages": HI, "text": "y" * 300})[0] == 400


def test_a_better_answer_becomes_a_pair_and_can_be_taken_back(port: int, tmp_path: Path) -> None:
    body = {"messages": HI, "chosen": YES, "rejected": [NO], "who": " Ana "}
    status, saved, _ = call(port, "POST", "/prefer", body)
    assert (status, saved["num_pairs"]) == (200, 1)
    row = json.loads((tmp_path / "feedback" / "chat.jsonl").read_text())
    assert (row["prompt"], row["chosen"], row["rejected"], row["rejected_ended"], row["who"]) == (
        HI,
        "yes",
        "no",
        False,
        "Ana",
    )
    assert call(port, "POST", "/take-back", {"ids": saved["ids"]})[1] == {"num_pairs": 0}


@pytest.mark.parametrize(
    "changes",
    [
        {"rejected": []},
        {"rejected": None},
        {"rejected": [{**NO, "text": "yes"}]},
        {"rejected": [{**NO, "text": " "}]},
        {"chosen": {**YES, "stage": "critic"}},
        {"chosen": "yes"},
        {"chosen": {**YES, "finish": "stopped"}},
        {"chosen": {**YES, "finish": ""}},
        {"rejected": [NO, {**NO, "finish": "stopped"}]},
        {"rejected": [{"stage": "sft", "text": "no", "ended": False}]},
        {"rejected": [{**NO, "finish": []}]},
        {"messages": []},
        {"messages": [*HI, {"role": "assistant", "content": "x"}]},
        {"who": ""},
        {"who": 5},
    ],
)
def test_what_is_no_pair_is_refused_and_nothing_is_saved(port: int, tmp_path: Path, changes: dict[str, Any]) -> None:
    status, reply, _ = call(
        port, "POST", "/prefer", {"messages": HI, "chosen": YES, "rejected": [NO], "who": "A"} | changes
    )
    assert (status, bool(reply["error"])) == (400, True)
    assert not (tmp_path / "feedback" / "chat.jsonl").exists()


def test_a_conversation_beyond_the_window_has_a_code_by_which_the_page_drops_the_oldest_turns(port: int) -> None:
    body = {"model": "base", "messages": [{"role": "user", "content": "x" * 300}], "max_tokens": 9, "stream": True}
    status, reply, _ = call(port, "POST", "/v1/chat/completions", body)
    assert (status, reply["code"]) == (400, "context_length_exceeded")
    assert "but the model reads 256 tokens in all" in reply["error"]
    status, reply, _ = call(port, "POST", "/v1/chat/completions", body, Accept_Language="zh")
    assert (status, reply["code"]) == (400, "context_length_exceeded")
    assert reply["error"].startswith("对话和回答超出模型的上下文窗口")


def test_other_sites_are_refused_and_only_the_page_itself_needs_no_key(engine: Engine, tmp_path: Path) -> None:
    with answering(app(engine, tmp_path, "127.0.0.1", key="secret")) as port:
        assert call(port, "GET", "/")[0] == 200
        assert call(port, "GET", "/about")[0] == 401
        assert call(port, "POST", "/prefer", {"messages": HI, "chosen": YES, "rejected": [NO], "who": "A"})[0] == 401
        assert call(port, "GET", "/about", Authorization="Bearer secret")[0] == 200
        evil = {"Origin": "http://evil.example", "Authorization": "Bearer secret"}
        assert call(port, "POST", "/take-back", {"ids": []}, **evil)[0] == 403


def test_the_stages_of_two_runs_answer_side_by_side_and_one_model_scores_them(engine: Engine, tmp_path: Path) -> None:
    runs = Several({"mine": engine, "other": engine})
    assert runs.stages == ("mine:base", "mine:sft", "other:base", "other:sft")
    with answering(app(runs, tmp_path, "127.0.0.1")) as port:
        assert call(port, "GET", "/about")[1]["stages"] == list(runs.stages)
        body = {"messages": HI, "max_tokens": 5, "seed": 3, "temperature": 1.0}
        said = {}
        for stage in runs.stages:
            reply = call(port, "POST", "/v1/chat/completions", {**body, "model": stage})[1]
            assert reply["model"] == stage
            said[stage] = reply["choices"][0]["message"]["content"]
        assert said["mine:sft"] == said["other:sft"]
        assert call(port, "POST", "/v1/chat/completions", {**body, "model": "sft"})[0] == 404
        expected = engine.score((Message("user", "Hi"),), "yes", ended=True).result().score
        assert call(port, "POST", "/score", {"messages": HI, "text": "yes", "ended": True})[1]["score"] == expected
        pair = {"messages": HI, "chosen": {**YES, "stage": "mine:base"}, "rejected": [{**NO, "stage": "other:sft"}]}
        assert call(port, "POST", "/prefer", {**pair, "who": "Ana"})[0] == 200
        row = json.loads((tmp_path / "feedback" / "chat.jsonl").read_text())
        assert (row["chosen_stage"], row["rejected_stage"]) == ("mine:base", "other:sft")


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["/runs/mine", "/runs/other"], ["mine", "other"]),
        (["/a/mine", "/b/mine"], ["a/mine", "b/mine"]),
        (["/a/x/mine", "/a/y/mine", "/a/x/other"], ["x/mine", "y/mine", "x/other"]),
    ],
)
def test_runs_are_called_by_what_tells_them_apart(paths: list[str], names: list[str]) -> None:
    assert names_of_runs([Path(path) for path in paths]) == names


def test_a_run_that_is_given_twice_is_refused() -> None:
    with pytest.raises(InputError, match="/runs/mine: is given twice"):
        names_of_runs([Path("/runs/mine"), Path("/runs/mine")])
