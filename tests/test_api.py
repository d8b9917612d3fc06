"""The public API: the examples of docs/api.md run, and each function does what its page says."""

import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification

import tercet
from tercet.api.libraries import torch_threads
from tercet.api.record import STEPS
from tercet.arm import pipeline as arm_pipeline
from tercet.lm import pipeline as lm_pipeline
from tercet.lm.data.examples import Example, Message
from tercet.lm.text.encoder import Encoder
from tercet.runs.folder import RunFolder
from tercet.runs.rows import Row

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "docs/api.md", ROOT / "docs/zh/api.md"]
SMALL = {"sft": {"max_steps": 3, "num_eval": 8, "samples_every": 3}, "data.max_response_tokens": 8}
PROMPTS = ["How are you?", "What is a telescope?", "Hello!"]


def blocks(page: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> tercet.Run:
    """A language run whose first step alone was done."""
    config = tercet.load_lm_config("tiny", SMALL)
    return tercet.run(config, tmp_path_factory.mktemp("tuned") / "run", step="sft", quiet=True)


def test_the_public_names_are_those_of_the_page() -> None:
    assert tercet.__all__ == sorted(tercet.__all__) == dir(tercet)
    for name in tercet.__all__:
        assert getattr(tercet, name) is not None
        for file in PAGES:
            assert re.search(rf"\b{re.escape(name)}\b", file.read_text(encoding="utf-8")), f"{file.name}: {name}"
    assert blocks(PAGES[0]) == blocks(PAGES[1])
    with pytest.raises(AttributeError, match="'tercet' has no attribute 'train_all'"):
        _ = tercet.train_all  # type: ignore[attr-defined]  # there is none


def test_a_run_is_opened_without_a_word_and_the_commands_still_tell(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tercet.load_lm_config("tiny")
    with (
        RunFolder.open(tmp_path / "run", config, preset="tiny") as folder,
        folder.step("sft", total=1, shown=[]) as step,
    ):
        step.finish({})
    capsys.readouterr()
    (tmp_path / "run" / "sft" / "done.json").write_text('{"seconds": 1.0}')
    assert tercet.Run(tmp_path / "run").finished == ("sft",)
    assert capsys.readouterr().out == ""
    RunFolder.open(tmp_path / "run", config, preset="tiny").close()
    assert "done by an earlier version" in capsys.readouterr().out


def test_importing_the_package_imports_no_library() -> None:
    heavy = "{'torch', 'transformers', 'pydantic', 'yaml', 'rich', 'mujoco', 'numpy'}"
    code = f"import sys, tercet; assert not {heavy} & set(sys.modules); tercet.Run; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_without_the_packages_of_the_arm_its_functions_say_what_to_install(tmp_path: Path) -> None:
    code = "import sys; sys.modules |= {'mujoco': None}; import tercet; config = tercet.load_arm_config('reach')\n"
    code += "try: tercet.run(config, 'run')\nexcept tercet.InputError as error: print(error)"
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=tmp_path)
    assert found.stdout.endswith('not installed (mujoco): pip install "tercet[arm]"\n')
    assert list(tmp_path.iterdir()) == []


def test_the_steps_are_those_of_the_pipelines() -> None:
    assert {"lm": tuple(lm_pipeline.STEPS), "arm": tuple(arm_pipeline.STEPS)} == STEPS


def test_overrides_may_be_strings_or_a_nested_dict() -> None:
    reward = {"reward_model": 1.0, "tercet.lm.preferences.judge:polite_and_to_the_point": 0.5}
    texts = ["a\u2028b", "😀 \x7f", "on", "350"]
    config = tercet.load_lm_config("tiny", {"ppo": {"reward": reward, "lr": 1e-7}, "eval": {"prompts": texts}})
    assert (config.ppo.reward, config.ppo.lr, config.eval.prompts) == (reward, 1e-7, texts)
    assert config.ppo.num_updates == tercet.load_lm_config("tiny").ppo.num_updates  # other keys of the section stay
    assert tercet.load_arm_config("reach", "seed=3").seed == 3
    with pytest.raises(tercet.InputError, match=r"clip_rage = 0.1 \(overrides\): .*did you mean ppo\.clip_range"):
        tercet.load_lm_config("tiny", {"ppo": {"clip_rage": 0.1}})


def test_a_callback_sees_each_row_and_can_end_the_run(
    tuned: tercet.Run, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    rows: list[Row] = []

    def two_rows(row: Row) -> None:
        rows.append(row)
        if len(rows) == 2:
            raise tercet.StopRun

    config = tercet.load_lm_config("tiny", SMALL)
    stopped = tercet.run(config, tmp_path / "run", step="sft", on_row=two_rows, quiet=True)
    assert (stopped.finished, rows, capsys.readouterr().out) == ((), stopped.metrics(), "")
    done = tercet.run(config, tmp_path / "run", step="sft")
    assert done.finished == ("sft",)
    assert [row["index"] for row in done.metrics("sft")] == [0, 1, 2]
    assert done.metrics("sft") == tuned.metrics("sft")  # as if it had not been stopped
    assert "sft  3/3" in capsys.readouterr().out


def test_the_threads_of_torch_are_restored() -> None:
    before = torch.get_num_threads()
    with torch_threads(before + 2):
        assert torch.get_num_threads() == before + 2
    assert torch.get_num_threads() == before


def test_an_error_of_the_callback_reaches_the_caller(tmp_path: Path) -> None:
    config = tercet.load_lm_config("tiny", SMALL)
    with pytest.raises(KeyError, match="absent"):
        tercet.run(config, tmp_path / "run", step="sft", on_row=lambda row: row["absent"], quiet=True)
    with pytest.raises(tercet.InputError, match="step='bc': must be one of sft, reward, ppo, eval"):
        tercet.run(config, tmp_path / "other", step="bc")
    assert not (tmp_path / "other").exists()


def test_responses_follow_from_the_seed_and_the_stage(tuned: tercet.Run, capsys: pytest.CaptureFixture) -> None:
    one = tercet.sample(tuned, PROMPTS, stage="base", seed=1, max_tokens=8)
    assert one[:2] == tercet.sample(tuned, PROMPTS[:2], stage="base", seed=1, max_tokens=8)
    assert one != tercet.sample(tuned, PROMPTS, stage="base", seed=2, max_tokens=8)
    assert one != tercet.sample(tuned, PROMPTS, stage="sft", seed=1, max_tokens=8)
    likeliest = [tercet.sample(tuned, PROMPTS, stage="sft", seed=seed, temperature=0) for seed in (1, 2)]
    assert likeliest[0] == likeliest[1]
    assert (tercet.sample(tuned, [], stage="sft"), capsys.readouterr().out) == ([], "")


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda run: tercet.sample(run, ["Hi"]), "stage='ppo': .* has base, sft"),
        (lambda run: tercet.sample(run, "Hi", stage="sft"), "must be a list of texts"),
        (lambda run: tercet.sample(run, ["Hi", " "], stage="sft"), r"prompts\[1\] is blank"),
        (lambda run: tercet.sample(run, ["Hi", "x" * 300], stage="sft"), r"prompts\[1\] with its response needs \d+ "),
        (lambda run: tercet.sample(run, ["Hi"], temperature=-1), "temperature=-1: must be at least 0"),
        (lambda run: tercet.sample(run, ["Hi"], max_tokens=0), "max_tokens=0: must be at least 1"),
        (lambda run: tercet.score(run, ["Hi"], []), "1 prompts and 0 responses"),
        (lambda run: tercet.score(run, ["Hi"], ["Ho"]), "has no reward model; run its step reward first"),
        (lambda run: tercet.play(run), "is a run of a language model"),
        (lambda run: tercet.Run(run.path / "sft"), "no run"),
    ],
)
def test_a_wrong_argument_is_named(call: Any, told: str, tuned: tercet.Run) -> None:
    with pytest.raises(tercet.InputError, match=told):
        call(tuned)


def test_a_policy_plays_the_starts_of_the_seed(tmp_path: Path) -> None:
    with RunFolder.open(tmp_path / "run", tercet.load_arm_config("reach", {"horizon": 20}), preset="reach"):
        run = tercet.Run(tmp_path / "run")
    first, again, other = (tercet.play(run, stage="start", num_starts=3, seed=seed) for seed in (5, 5, 6))
    assert [episode.dense_return for episode in first] == [episode.dense_return for episode in again]
    assert not np.array_equal(first[0].observations[0], other[0].observations[0])
    assert all(len(one.actions) == len(one.observations) == 20 and one.success is False for one in first)
    with pytest.raises(tercet.InputError, match=r"stage='ppo': .* has start"):
        tercet.play(run)
    with pytest.raises(tercet.InputError, match="num_starts=0: must be at least 1"):
        tercet.play(run, num_starts=0)
    with pytest.raises(tercet.InputError, match="is a run of a robot arm"):
        tercet.sample(run, ["Hi"])


@pytest.mark.slow
def test_the_examples_of_the_page_run(tmp_path: Path) -> None:
    before, names = Path.cwd(), dict[str, Any]()
    os.chdir(tmp_path)
    try:
        for block in blocks(PAGES[0]):
            exec(compile(block, "docs/api.md", "exec"), names)  # our own page, and the point is to run it
    finally:
        os.chdir(before)
    run, arm = tercet.Run(tmp_path / "runs/api"), tercet.Run(tmp_path / "runs/api-arm")
    assert (run.domain, run.finished, arm.domain) == ("lm", ("sft", "reward", "ppo", "eval"), "arm")
    assert {row["step"] for row in run.metrics()} == {"sft", "reward", "ppo", "eval"}
    assert {row["step"] for row in run.samples("ppo")} == {"ppo"}
    assert tercet.load_lm_config(run.path / "config.yaml") == names["config"]
    check_scores(run)
    start, ppo = (tercet.play(arm, stage=stage, num_starts=3, seed=5) for stage in ("start", "ppo"))
    for one, other in zip(start, ppo, strict=True):
        assert np.array_equal(one.observations[0], other.observations[0])
    assert not np.array_equal(start[0].actions, ppo[0].actions)


def check_scores(run: tercet.Run) -> None:
    """The scores are those that transformers gives to the whole texts."""
    model = AutoModelForSequenceClassification.from_pretrained(run.path / "reward/model").eval()
    encoder = replace(Encoder.of(tercet.load_lm_config(run.path / "config.yaml")), max_response_tokens=1000)
    responses = ["Fine.", "Far too long for the limit of the run, " * 3, "Hm"]
    for prompt, response, score in zip(PROMPTS, responses, tercet.score(run, PROMPTS, responses), strict=True):
        ids = encoder.prompt(Example((Message("user", prompt),), "", None, "", "")) + encoder.response(response)
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits
        assert score == pytest.approx(float(logits[0, 0]) + model.config.score_bias, abs=1e-4)
