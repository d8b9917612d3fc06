"""Rounds: new pairs from PPO's own answers, the reward model trained on all pairs, and PPO continued."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

import tercet as api
from tercet.config.load import load_lm_config
from tercet.errors import InputError, WaitingError
from tercet.feedback.answers import AnswerBook
from tercet.feedback.sheets import sheets
from tercet.lm.pipeline import needed, steps_of
from tercet.runs.folder import RunFolder
from tercet.web.label import Desk

Tercet = Callable[..., Result]
Tree = dict[str, Any]  # Any: JSON
NEW = ["reward.pairs_per_round=12", "ppo.lr=0.02", "ppo.max_kl=1000", "ppo.eval_every=1"]


def rows_of(run: Path, file: str) -> list[Tree]:
    return [json.loads(line) for line in (run / file).read_text().splitlines()]


@pytest.fixture(scope="module")
def improved(tiny: Tercet, small: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of two rounds; look, don't touch."""
    path = tmp_path_factory.mktemp("rounds") / "at once"
    result = tiny("run", path, *small, *NEW, "reward.num_rounds=2")
    assert result.exit_code == 0, result.output
    return path


@pytest.mark.slow
def test_rounds_added_to_a_finished_run_are_those_of_a_run_that_began_with_them(
    tiny: Tercet, tercet: Tercet, improved: Path, small: list[str], tmp_path: Path
) -> None:
    later = tmp_path / "later"
    assert tiny("run", later, *small, *NEW).exit_code == 0
    result = tercet("lm", "improve", later, "--rounds", 2)
    assert result.exit_code == 0, result.output
    assert [f"{step}: already done" in result.stdout for step in ("sft", "reward", "ppo")] == [True] * 3
    for file in (
        "config.yaml",
        "metrics.jsonl",
        "samples.jsonl",
        "ppo-2/model/model.safetensors",
        "eval/held_out.json",
    ):
        assert (improved / file).read_bytes() == (later / file).read_bytes(), file
    fewer = tercet("lm", "improve", later, "--rounds", 1)
    assert fewer.exit_code == 2 and "reward.num_rounds: 2 in the run, 1 now" in fewer.output


@pytest.mark.slow
def test_the_reward_model_of_a_round_learns_from_all_pairs_so_far(improved: Path) -> None:
    figures = json.loads((improved / "results.json").read_text())["rounds"]
    for number in (1, 2):
        pairs = rows_of(improved / f"reward-{number}", "pairs.jsonl")
        assert [row["part"] for row in pairs].count("train") == 12
        accuracy = figures[str(number)]["reward_model"]["accuracy"]
        assert {"toy", *(f"round-{one}" for one in range(1, number + 1))} == accuracy.keys()
        assert figures[str(number)]["accuracy_before"]["num_prompts"] == accuracy[f"round-{number}"]["num_prompts"]
    assert rows_of(improved / "reward-1", "pairs.jsonl") != rows_of(improved / "reward-2", "pairs.jsonl")


@pytest.mark.slow
def test_every_round_is_compared_and_its_kl_is_counted_from_sft(improved: Path) -> None:
    results = json.loads((improved / "results.json").read_text())
    assert {"ppo-1_vs_sft", "ppo-1_vs_ppo", "ppo-2_vs_ppo-1", "ppo-2_vs_base"} <= results["win_rate"].keys()
    assert all(results["rounds"][number]["kl_to_reference"] > 0 for number in ("1", "2"))
    report = (improved / "report.md").read_text()
    assert "Round 2 against Round 1" in report and "After 2 rounds of new judgements" in report
    run = api.Run(improved)
    assert run.finished == ("sft", "reward", "ppo", "reward-1", "ppo-1", "reward-2", "ppo-2", "eval")
    assert len(api.sample(run, ["Is the door red?"], stage="ppo-2")) == 1


@pytest.mark.slow
@pytest.mark.parametrize("adapters", [[], ["lora.rank=2"]], ids=["all weights", "lora"])
def test_ppo_continues_from_the_last_actor_with_sft_as_the_reference(
    adapters: list[str], small: list[str], tmp_path: Path
) -> None:
    config = load_lm_config(
        "tiny", [*small, *NEW, *adapters, "ppo.lr=0.01", "ppo.num_updates=6", "reward.num_rounds=1"]
    )
    steps = steps_of(config.reward.num_rounds)
    with RunFolder.open(tmp_path / "run", config, preset="tiny") as folder:
        for name in needed(config)[:-1]:
            steps[name](folder, config)
        rows = {(row["step"], row["index"]): row for row in folder.metrics()}
        best = folder.results()["best_checkpoint"]
        assert "kl" not in folder.results()["rounds"]["1"]["self_check"]
    assert best["update"] > 0, "the test needs an actor that has moved"
    assert rows["ppo", 0]["ppo/validation_kl"] == pytest.approx(0, abs=1e-4)
    assert abs(rows["ppo-1", 0]["ppo/validation_kl"]) > 0.01


def test_a_person_is_asked_in_every_round(small: list[str], tmp_path: Path) -> None:
    config = load_lm_config("tiny", [*small, *NEW, "judge=person", "reward.num_rounds=1"])
    steps, run = steps_of(config.reward.num_rounds), tmp_path / "run"
    with RunFolder.open(run, config, preset="tiny") as folder:
        for name in ("sft", "reward", "ppo"):
            steps[name](folder, config)
        with pytest.raises(WaitingError, match="questions wait for a person"):
            steps["reward-1"](folder, config)
    (sheet,) = sheets(run / "feedback")
    assert sheet.path.name == "round-1"
    with AnswerBook(run / "feedback") as book:
        for index in range(len(sheet.questions)):
            book.write(sheet.key(index), "right", "script")
    with RunFolder.open(run, config, preset="tiny") as folder:
        steps["reward-1"](folder, config)
    rows = rows_of(run / "reward-1", "pairs.jsonl")
    assert [row["chosen"] for row in rows] == [one["right"] for one in sheet.questions]


@pytest.mark.slow
def test_improve_asks_a_person_on_the_page_and_continues_with_the_same_command(
    tiny: Tercet, tercet: Tercet, small: list[str], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    first = tiny("run", run, *small, *NEW, "judge=person")  # the pairs of step 2 are those of the data
    assert first.exit_code == 0, first.output
    asked = tercet("lm", "improve", str(run))
    assert (asked.exit_code, "questions wait for a person" in asked.output) == (3, True)
    desk, preferred = Desk(run), list[str]()
    while (question := desk.state("Ana")["question"]) is not None:
        said = "left" if len(preferred) % 2 else "right"
        preferred.append(question[said])
        desk.answer({**question, "said": said, "who": "Ana", "seconds": 1.0})
    desk.close()
    done = tercet("lm", "improve", str(run))
    assert done.exit_code == 0, done.output
    assert [row["chosen"] for row in rows_of(run / "reward-1", "pairs.jsonl")] == preferred
    assert api.Run(run).finished[-2:] == ("ppo-1", "eval")
    kept = tercet("label", str(run), "--export", str(tmp_path / "pairs.jsonl"))
    assert kept.exit_code == 0, kept.output
    exported = [row["chosen"] for row in rows_of(tmp_path, "pairs.jsonl")]
    assert exported and set(exported) <= set(preferred)


def test_a_data_set_with_the_name_of_a_round_is_refused(small: list[str], toy_pairs: Path, tmp_path: Path) -> None:
    from tercet.lm.checks import check

    data = f"data.train=[{{path: {toy_pairs}, name: round-1}}]"
    config = load_lm_config("tiny", [*small, data, "reward.num_rounds=1"])
    with pytest.raises(InputError, match="the set round-1 has the name of a round"):
        check(config, needed(config))
