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
from tercet.lm.data.examples import Example, Message
from tercet.lm.text.encoder import Encoder

ROOT = Path(__file__).parents[1]


PAGES = [ROOT / "docs/api.md", ROOT / "docs/zh/api.md"]


PROMPTS = ["How are you?", "What is a telescope?", "Hello!"]


def blocks(page: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def test_the_public_names_are_those_of_the_page() -> None:
    assert tercet.__all__ == sorted(tercet.__all__) == dir(tercet)
    for name in tercet.__all__:
        assert getattr(tercet, name) is not None
        for file in PAGES:
            assert re.search(rf"\b{re.escape(name)}\b", file.read_text(encoding="utf-8")), f"{file.name}: {name}"
    assert blocks(PAGES[0]) == blocks(PAGES[1])
    with pytest.raises(AttributeError, match="'tercet' has no attribute 'train_all'"):
        _ = tercet.train_all  # type: ignore[attr-defined]  # there is none


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
