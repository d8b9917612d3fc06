"""A person as the judge: a run stops for answers, and continues to the same result as with a function as judge."""

import http.client
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.web.test_server import served
from typer.testing import CliRunner

from tercet.arm import pipeline, reward
from tercet.arm.preferences import human
from tercet.arm.preferences.pairs import load_pairs
from tercet.arm.sim.env import ArmEnv
from tercet.cli import app
from tercet.config.load import load_arm_config
from tercet.errors import FailedError, WaitingError
from tercet.feedback.answers import AnswerBook
from tercet.feedback.sheets import Kind, read_sheet, sheets, write_sheet
from tercet.runs.folder import RunFolder

ROUNDS = ["reward.num_rounds=2", "reward.round_every=2", "reward.pairs_per_round=5"]
ROUNDS += ["ppo.num_updates=5", "ppo.checkpoint_every=3"]
FEWER = ["reward.judge=person", "reward.num_pairs=4", "reward.num_eval=2"]
FEW = ["bc.demonstrations=none", "reward.num_pairs=10", "reward.num_eval=4", "ppo.reward={reward_model: 1.0}"]
MAY_DIFFER = ("config.yaml", "timings.jsonl", "run.json", "done.json", ".lock")

Label = Callable[[str, int, dict[str, Any]], Any]


@pytest.fixture(autouse=True)
def _can_draw() -> None:
    try:
        ArmEnv("reach", 1).render(0, 64, 48)
    except FailedError as error:
        pytest.skip(str(error))


def nearer(states: torch.Tensor) -> torch.Tensor:
    """Score as the built-in judge on reach. Entries 9 to 11 are the vector from the tip to the goal."""
    return -states[..., 9:12].norm(dim=-1).mean(-1)


def label_as_rule(run: Path) -> Label:
    """Return a labeller with the preferences of tercet.arm.preferences.judge:nearer_the_target."""

    def label(sheet: str, question: int, _: dict[str, Any]) -> str:
        states = load_file(run / "feedback" / sheet / "states.safetensors")
        first, second = nearer(states["first"][question]), nearer(states["second"][question])
        return "left" if first > second else "right"

    return label


def answer_all(run: Path, label: Label, max_num: int = 1000) -> int:
    """Answer up to `max_num` open questions over HTTP; return how many were answered."""
    with served(run) as port:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        connection.request("GET", "/state")
        state = json.loads(connection.getresponse().read())
        for number in range(max_num):
            question = state["question"]
            if question is None:
                return number
            for part in ("left", "right", "video"):
                if part in question:
                    connection.request("GET", "/" + question[part])
                    assert connection.getresponse().read()[4:8] == b"ftyp"  # an MP4
            answer = label(question["sheet"], question["question"], question)
            body = {"sheet": question["sheet"], "question": question["question"], "said": answer, "who": "script"}
            connection.request("POST", "/answer", json.dumps(body), {"Content-Type": "application/json"})
            reply = connection.getresponse()
            state = json.loads(reply.read())
            assert reply.status == 200, state
        return max_num


def take_steps(run: Path, overrides: list[str], steps: Sequence[str] = ("reward", "ppo")) -> None:
    config = load_arm_config("reach", overrides)
    with RunFolder.open(run, config, preset="reach") as folder:
        for name in steps:
            if not folder.is_done(name):
                pipeline.STEPS[name](folder, config)


def updates_in_checkpoint(run: Path) -> int:
    state = run / "ppo" / "checkpoint" / "state.json"
    return json.loads(state.read_text())["info"]["done"] if state.exists() else 0


def contents(run: Path) -> dict[str, bytes]:
    """Return the bytes of every file except questions and times, with the seconds removed from the results."""
    files = {
        str(path.relative_to(run)): path.read_bytes()
        for path in run.rglob("*")
        if path.is_file() and path.name not in MAY_DIFFER and "feedback" not in path.parts
    }
    for name in [name for name in files if Path(name).name == "results.json"]:
        results = json.loads(files[name])
        del results["seconds"]
        files[name] = json.dumps(results).encode()
    return files


@pytest.mark.slow
def test_a_person_with_the_preferences_of_the_judge_gives_the_same_run_to_the_bit(
    small: list[str], tmp_path: Path
) -> None:
    take_steps(tmp_path / "rule", [*small, *FEW, *ROUNDS])
    run, asked, stops = tmp_path / "person", [], []
    overrides = [*small, *FEW, *ROUNDS, "reward.judge=person"]
    while True:
        try:
            take_steps(run, overrides)
            break
        except WaitingError as error:
            assert f"answer them with `tercet label {run}`, then give the same command again" in str(error)
            num = int(str(error).split()[0])
        stops.append(updates_in_checkpoint(run))
        assert answer_all(run, label_as_rule(run), max_num=2) == 2
        with pytest.raises(WaitingError, match=f"^{num - 2} of {num} questions"):
            take_steps(run, overrides)
        asked.append(2 + answer_all(run, label_as_rule(run)))
    assert asked == [14, 5, 5]
    assert stops == [0, 2, 4]  # PPO writes a checkpoint before it waits for answers
    expected, actual = contents(tmp_path / "rule"), contents(run)
    assert [name for name in expected | actual if expected.get(name) != actual.get(name)] == []
    assert len(expected) > 10


@pytest.mark.slow
def test_equal_counts_half_and_unclear_is_left_out(small: list[str], tmp_path: Path) -> None:
    config = load_arm_config("reach", [*small, *FEW, "reward.judge=person"])
    words = ["left", "equal", "unclear", "right", "equal"]
    with RunFolder.open(tmp_path / "run", config, preset="reach") as folder:
        with pytest.raises(WaitingError):
            reward.run(folder, config)
        answer_all(folder.path, lambda sheet, question, _: words[question % 5])
        reward.run(folder, config)
        states = load_file(folder.path / "feedback" / "learned" / "states.safetensors")
        pairs = load_pairs(folder.path / "reward" / "pairs" / "learned.safetensors")
    assert pairs.preference.tolist() == [1.0, 0.5, 1.0, 0.5] * 2
    assert torch.equal(pairs.better[[0, 1, 3]], states["first"][[0, 1, 4]])
    assert torch.equal(pairs.better[2], states["second"][3])
    figures = folder.results()["reward_model"]
    assert (figures["num_pairs"], figures["num_held_out"]) == (8, 2)  # only decided pairs are held out


@pytest.mark.slow
def test_marked_moments_become_pairs_also_in_rounds(small: list[str], tmp_path: Path) -> None:
    run, overrides = tmp_path / "run", [*small, *FEW, *ROUNDS, "reward.judge=person", "reward.feedback=steps"]
    asked: list[tuple[str, int]] = []

    def mark_moments(sheet: str, question: int, shown: dict[str, Any]) -> list[dict[str, Any]]:
        asked.append((sheet, question))
        states = load_file(run / "feedback" / sheet / "states.safetensors")["states"][question]
        assert shown["num_steps"] == len(states) == 12
        score = nearer(states[:, None])
        return [{"step": step, "call": "good" if score[step] > score[step - 5] else "bad"} for step in (6, 11)]

    for _ in range(3):
        with pytest.raises(WaitingError):
            take_steps(run, overrides)
        answer_all(run, mark_moments)
    take_steps(run, overrides)
    assert asked == [("held_out", 0), ("learned", 0), ("round-1", 0), ("round-2", 0)]  # one episode per ten judgements
    pairs = load_pairs(run / "reward" / "pairs" / "learned.safetensors")
    assert (nearer(pairs.better) > nearer(pairs.worse)).all() and len(pairs) == 2


@pytest.mark.slow
def test_questions_can_be_answered_in_a_copy_and_a_repeated_step_reuses_the_answers(
    small: list[str], tmp_path: Path
) -> None:
    run, overrides = tmp_path / "run", [*small, *FEW, *FEWER]
    with pytest.raises(WaitingError):
        take_steps(run, overrides, ["reward"])
    shutil.copytree(run / "feedback", tmp_path / "laptop" / "feedback")
    assert answer_all(tmp_path / "laptop", label_as_rule(tmp_path / "laptop")) == 6
    shutil.copy(tmp_path / "laptop" / "feedback" / "answers.jsonl", run / "feedback")
    take_steps(run, overrides, ["reward"])
    assert all(sheet.is_taken() for sheet in sheets(run / "feedback"))
    before = (run / "reward" / "pairs" / "learned.safetensors").read_bytes()
    shutil.rmtree(run / "reward")
    take_steps(run, overrides, ["reward"])
    assert (run / "reward" / "pairs" / "learned.safetensors").read_bytes() == before


@pytest.mark.slow
def test_the_command_names_open_questions_and_useless_answers_can_be_changed(small: list[str], tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = ["arm", "reward", "-p", "reach", "-o", str(run), *small, *FEW, *FEWER, "reward.look_for=Be gentle."]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 3
    assert result.stderr == (
        f"tercet: 6 of 6 questions wait for a person: answer them with `tercet label {run}`, "
        "then give the same command again\n"
    )
    assert {sheet.look_for for sheet in sheets(run / "feedback")} == {"Be gentle."}
    answer_all(run, lambda sheet, question, _: "equal")
    result = CliRunner().invoke(app, command)
    assert (result.exit_code, "the judge person prefers no segment to another" in result.stderr) == (1, True)
    assert not any(sheet.is_taken() for sheet in sheets(run / "feedback"))


@pytest.mark.parametrize(
    ("kind", "states", "message"),
    [
        ("pairs", {}, "damaged .*first.*remove .*learned to write new questions"),
        (
            "pairs",
            {"first": torch.zeros(1, 3, 2), "second": torch.zeros(1, 3, 2)},
            "damaged .*not have one row per",
        ),
        ("moments", {"states": torch.zeros(2, 3, 2)}, "damaged .*lengths"),
        ("answers", {"first": torch.zeros(2, 3, 2)}, "damaged .*answers"),
    ],
)
def test_error_names_states_that_do_not_fit_the_questions(
    tmp_path: Path, kind: Kind, states: dict[str, torch.Tensor], message: str
) -> None:
    question: dict[str, Any] = {
        "pairs": {"left": "0.mp4", "right": "1.mp4"},
        "moments": {"video": "0.mp4", "num_steps": 3, "steps_a_second": 20},
        "answers": {"prompt": [], "left": "a", "right": "b"},
    }[kind]

    def write(folder: Path) -> list[dict[str, Any]]:
        save_file(states, folder / "states.safetensors")
        return [question, question]

    folder = tmp_path / "feedback" / "learned"
    write_sheet(folder, kind, "", write)
    answer = [] if kind == "moments" else "left"
    with AnswerBook(folder.parent) as book:
        for index in range(2):
            book.write(read_sheet(folder).key(index), answer, "Ana")
    with pytest.raises(FailedError, match=f"states.safetensors: {message}"):
        human.read_pairs([folder], "pairs")
    (folder / "states.safetensors").write_bytes(b"\0" * 8)
    with pytest.raises(FailedError, match="have changed since the run wrote them"):
        human.read_pairs([folder], "pairs")
