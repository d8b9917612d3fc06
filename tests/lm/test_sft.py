"""Step 1 learns the answers, measures what transformers would, and does not care how its batches are cut."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tercet.config.load import load_lm_config
from tercet.lm.data.splits import step_examples

Take = Callable[..., Path]
Row = dict[str, Any]  # Any: JSON


def rows(run: Path) -> list[Row]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def taught(take: Take, small: list[str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A run that learned for 40 steps, and its overrides."""
    path = tmp_path_factory.mktemp("runs") / "sft"
    settings = [*small, "sft.max_steps=0", "sft.epochs=6", "sft.lr=1e-2", "sft.num_eval=99"]
    return take("sft", path, *settings), settings


def test_the_answers_are_learned(taught: tuple[Path, list[str]]) -> None:
    perplexity = json.loads((taught[0] / "results.json").read_text())["perplexity"]
    assert 240 < perplexity["base"] < 280  # a random model of 260 tokens
    assert perplexity["sft"] < 10  # of prompts it has not seen: "Yes, " is always the same
    assert perplexity["sets"] == {"toy": perplexity["sft"]}
    losses = [row["sft/loss"] for row in rows(taught[0])]
    assert sum(losses[-5:]) < 0.4 * sum(losses[:5])


def test_the_perplexity_is_the_one_of_transformers(taught: tuple[Path, list[str]]) -> None:
    path, settings = taught
    model = AutoModelForCausalLM.from_pretrained(path / "sft" / "model").eval()
    tokenizer = AutoTokenizer.from_pretrained(path / "sft" / "model")
    examples = step_examples(load_lm_config("tiny", settings).data, "sft")
    loss, count = 0.0, 0
    for example in [*examples.test["toy"], *examples.validation["toy"]]:
        prompt = tokenizer.encode(f"{example.prompt}\n")
        answer = [*tokenizer.encode(example.chosen), 2][:8]
        labels = torch.tensor([[-100] * len(prompt) + answer])
        with torch.no_grad():
            loss += float(model(torch.tensor([prompt + answer]), labels=labels).loss) * len(answer)
        count += len(answer)
    expected = math.exp(loss / count)
    assert json.loads((path / "results.json").read_text())["perplexity"]["sft"] == pytest.approx(expected, rel=1e-4)


def test_the_rate_warms_up_and_falls(taught: tuple[Path, list[str]]) -> None:
    rates = [row["sft/lr"] for row in rows(taught[0])]
    top = rates.index(max(rates))
    assert rates[top] == 1e-2
    assert 0 < top < len(rates) / 10
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    assert rates[-1] < 1e-3


def test_micro_batches_change_nothing(take: Take, small: list[str], tmp_path: Path) -> None:
    found = {}
    for size in (1, 3, 8):
        out = take("sft", tmp_path / str(size), *small, f"sft.micro_batch_size={size}")
        found[size] = [(row["sft/loss"], row["sft/grad_norm"]) for row in rows(out)]
    for size in (1, 3):
        for ours, whole in zip(found[size], found[8], strict=True):
            assert ours == pytest.approx(whole, rel=1e-4)


def test_the_same_seed_gives_the_same_bits_and_another_seed_others(
    take: Take, small: list[str], tmp_path: Path
) -> None:
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        take("sft", tmp_path / name, *small, f"seed={seed}")
    files = [(tmp_path / name / "metrics.jsonl").read_bytes() for name in "abc"]
    assert files[0] == files[1] != files[2]
