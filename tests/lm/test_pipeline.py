"""`tercet lm run` from end to end on the preset tiny: what it leaves, and that nothing is done twice."""

import json
import math
import re
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import Result
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from tercet.config.load import load_lm_config
from tercet.lm.pipeline import needed

Tercet = Callable[..., Result]
Tree = dict[str, Any]  # Any: JSON


@pytest.fixture(scope="module")
def results(tiny_run: Path) -> Tree:
    return json.loads((tiny_run / "results.json").read_text())


def leaves(tree: Tree, prefix: str = "") -> dict[str, object]:
    """Every figure under its full name."""
    found: dict[str, object] = {}
    for key, value in tree.items():
        found |= leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return found


def test_results_hold_every_documented_name(results: Tree) -> None:
    interval = ("mean", "low", "high", "num_prompts")
    compared, scores = ("ppo_vs_sft", "ppo_vs_base", "sft_vs_base"), ("judge", "reward_model")
    pairs = [f"win_rate.{pair}.{by}" for pair in compared for by in scores]
    documented = {
        *(f"{name}.{key}" for name in [*pairs, "reward_model.accuracy.chatterbot"] for key in interval),
        *("kl_to_reference", "perplexity.base", "perplexity.sft"),
        *(f"seconds.{step}" for step in ("sft", "reward", "ppo", "eval")),
        *(f"mean_score.{stage}.{by}" for stage in ("base", "sft", "ppo") for by in scores),
        *(f"response_length.{stage}" for stage in ("base", "sft", "ppo")),
        *(f"reward_model.{name}.chatterbot" for name in ("margin", "score_chosen", "score_rejected")),
        *("reward_model.length_correlation.chatterbot", "reward_model.calibration.chatterbot"),
        *("reward_model.forgetting", "best_checkpoint.update", "best_checkpoint.score", "best_checkpoint.kl"),
        *(f"best_checkpoint.{name}" for name in ("expected_shrinkage", "num_candidates", "num_scores")),
        *(f"self_check.{name}" for name in ("ratio", "kl", "padding", "reward_identity")),
    }
    assert documented <= set(leaves(results))


def test_results_are_possible_numbers(results: Tree) -> None:
    for interval in [*results["win_rate"]["ppo_vs_sft"].values(), *results["reward_model"]["accuracy"].values()]:
        assert 0 <= interval["low"] < interval["mean"] < interval["high"] <= 1
    assert results["win_rate"]["ppo_vs_sft"]["judge"]["num_prompts"] == 32
    assert results["perplexity"]["sft"] < 0.5 * results["perplexity"]["base"]
    assert 200 < results["perplexity"]["base"] < 300  # a random model of 260 tokens knows nothing
    assert results["win_rate"]["sft_vs_base"]["judge"]["low"] > 0.5
    bins = results["reward_model"]["calibration"]["chatterbot"]
    assert sum(part["num"] for part in bins) == results["reward_model"]["accuracy"]["chatterbot"]["num_prompts"]
    assert all(seconds > 0 for seconds in results["seconds"].values())
    assert all(value < 1e-4 for value in results["self_check"].values())


def test_the_folder_explains_itself(tiny_run: Path) -> None:
    config = (tiny_run / "config.yaml").read_text()
    assert "kl_coef" in config  # defaults are written out
    info = json.loads((tiny_run / "run.json").read_text())
    assert {"preset", "python", "packages", "machine", "git_commit"} <= set(info)
    rows = [json.loads(line) for line in (tiny_run / "metrics.jsonl").read_text().splitlines()]
    assert {row["step"] for row in rows} == {"sft", "reward", "ppo", "eval"}
    names = {name for row in rows for name in row}
    wanted = ("actor_loss", "critic_loss", "score", "reward", "kl", "kl_coef", "entropy", "clip_fraction", "approx_kl")
    wanted += ("explained_variance", "response_length", "eos_fraction", "validation_score", "validation_kl")
    assert {f"ppo/{name}" for name in wanted} <= names
    assert all(math.isfinite(value) for row in rows for value in row.values() if not isinstance(value, str))
    samples = [json.loads(line) for line in (tiny_run / "samples.jsonl").read_text().splitlines()]
    assert {sample["step"] for sample in samples} == {"sft", "ppo"}
    assert all({"step", "index", "prompt", "response"} <= set(sample) for sample in samples)
    assert all(("score" in sample) == (sample["step"] == "ppo") for sample in samples)


def test_the_report_needs_no_other_file(tiny_run: Path) -> None:
    page = (tiny_run / "report.html").read_text()
    assert not re.search(r"<(script|link|img|iframe)[^>]+(src|href)=[\"'](?!data:)", page)
    assert page.count("<svg") >= 5
    assert (tiny_run / "report.md").stat().st_size > 1000


def test_every_stage_loads_in_transformers_and_answers(tiny_run: Path) -> None:
    for stage in ("sft", "ppo"):
        path = tiny_run / stage / "model"
        model, info = AutoModelForCausalLM.from_pretrained(path, output_loading_info=True)
        assert not any(info.values())
        tokenizer = AutoTokenizer.from_pretrained(path)
        ids = tokenizer("What is love?\n", return_tensors="pt")
        answer = model.generate(**ids, max_new_tokens=8, do_sample=False, pad_token_id=0)
        assert answer.shape[1] > ids["input_ids"].shape[1]


def test_the_reward_model_loads_in_transformers_with_one_label(tiny_run: Path) -> None:
    path = tiny_run / "reward" / "model"
    model, info = AutoModelForSequenceClassification.from_pretrained(path, output_loading_info=True)
    assert not any(info.values())
    assert model(torch.tensor([[70, 80, 2]])).logits.shape == (1, 1)
    assert isinstance(model.config.score_bias, float)


def test_nothing_is_pickled(tiny_run: Path) -> None:
    for file in (path for path in tiny_run.rglob("*") if path.is_file()):
        if file.suffix == ".safetensors":
            with safe_open(file, "pt") as tensors:
                assert tensors.keys()
        else:
            file.read_text(encoding="utf-8")  # pickles and zip archives are no UTF-8


def test_nothing_is_left_over(tiny_run: Path) -> None:
    assert not list(tiny_run.rglob("*checkpoint*"))
    assert {path.name for path in tiny_run.rglob(".*")} <= {".lock"}


def test_a_second_call_does_nothing_again(tiny: Tercet, tiny_run: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(tiny_run, tmp_path / "run")
    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    result = tiny("run", copy)
    assert result.exit_code == 0, result.output
    assert result.stdout.count("already done") == 4
    after = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    changed = {path.name for path in before | after if before.get(path) != after.get(path)}
    assert changed <= {".lock", "report.html", "report.md"}


@pytest.mark.slow
def test_the_steps_one_at_a_time_do_what_run_does(tiny: Tercet, small: list[str], tmp_path: Path) -> None:
    at_once, by_step = tmp_path / "at once", tmp_path / "by step"
    assert tiny("run", at_once, *small).exit_code == 0
    for step in ("sft", "reward", "ppo", "eval"):
        result = tiny(step, by_step, *small)
        assert result.exit_code == 0, result.output
    for file in ("metrics.jsonl", "samples.jsonl", "ppo/model/model.safetensors", "eval/answers.json"):
        assert (at_once / file).read_bytes() == (by_step / file).read_bytes(), file


@pytest.mark.parametrize(
    ("overrides", "steps"),
    [
        ([], ["sft", "reward", "ppo", "eval"]),
        (["ppo.policy=my/policy"], ["reward", "ppo", "eval"]),
        (["ppo.reward={m:f: 1.0}"], ["sft", "ppo", "eval"]),
        (["ppo.reward={m:f: 1.0, reward_model: 0.5}"], ["sft", "reward", "ppo", "eval"]),
        (["ppo.policy=my/policy", "ppo.reward={my/reward: 1.0}"], ["ppo", "eval"]),
    ],
)
def test_steps_that_nothing_needs_are_left_out(overrides: list[str], steps: list[str]) -> None:
    assert needed(load_lm_config("tiny", overrides)) == steps


@pytest.mark.slow
def test_an_evaluation_given_early_is_done_again_by_the_run(tiny: Tercet, small: list[str], tmp_path: Path) -> None:
    for command in ("sft", "eval", "run"):
        result = tiny(command, tmp_path / "run", *small)
        assert result.exit_code == 0, result.output
    assert json.loads((tmp_path / "run" / "results.json").read_text())["win_rate"].keys() > {"ppo_vs_sft"}
    assert "PPO has not been measured" not in (tmp_path / "run" / "report.md").read_text()


# each function fails if a column is not that of its prompt, and writes down that it was called
PAIRED = """
def _checked(name, prompts, completions, answer):
    assert answer == [prompt.upper() for prompt in prompts], (prompts, answer)
    with open("called.txt", "a") as file:
        print(name, len(prompts), file=file)
    return [completion.count("e") + 0.01 * len(completion) for completion in completions]

def judge(prompts, responses, answer):
    return _checked("judge", prompts, responses, answer)

def reward(completions, answer, prompts, **columns):
    assert columns["number"] == [len(prompt) for prompt in prompts]
    return _checked("reward", prompts, completions, answer)

def watched(prompts, completions, answer):
    return _checked("watched", prompts, completions, answer)

def unseen(prompts, responses, answer=None):
    return _checked("unseen", prompts, responses, answer)
"""
WITH_COLUMNS = [
    *("judge=paired:judge", "ppo.reward={paired:reward: 1.0, reward_model: 0.1}", "ppo.watch=['paired:watched']"),
    *("eval.unseen_judges=['paired:unseen']", "sft.best_fraction=0.5", "reward.num_sampled_pairs=16"),
    *("ppo.algorithm=dapo", "ppo.group_size=4", "ppo.max_redraws=1", "data.columns={answer: loud.text}"),
]


def test_every_function_gets_the_columns_of_its_own_prompts(
    take: Callable[..., Path], small: list[str], toy_pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "paired.py").write_text(PAIRED)
    rows = [
        {"prompt": p, "response": row["chosen"], "loud": {"text": p.upper()}, "number": len(p)}
        for row in map(json.loads, toy_pairs.read_text().splitlines())
        for p in [row["prompt"]]
    ]
    (tmp_path / "toy.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name in ("sft", "reward", "ppo", "eval"):
        take(name, tmp_path / "run", *small, "data.train=[toy.jsonl]", *WITH_COLUMNS)
    calls = Counter(line.split()[0] for line in (tmp_path / "called.txt").read_text().splitlines())
    assert calls.keys() == {"judge", "reward", "watched", "unseen"}
    assert calls["judge"] >= 6  # SFT's responses, pairs to train and test on, three stages
