"""The responses in the report: held-out prompts in the order of PPO's gain, and samples of training."""

from dataclasses import replace
from pathlib import Path

from tercet.report import answers
from tercet.report.blocks import Comparison, Table
from tercet.report.records import read


def _row(prompt: str, gain: float) -> dict[str, object]:
    scores = {"sft": {"judge": 1.0}, "ppo": {"judge": 1.0 + gain}}
    return {"prompt": prompt, "answers": {"sft": "a", "ppo": "b"}, "scores": scores}


def test_held_out_prompts_go_from_the_largest_gain_to_the_largest_loss(finished: Path) -> None:
    rows = [_row("middle", 0.0), _row("loss", -2.0), _row("gain", 3.0)]
    _, *shown = answers.held_out(replace(read(finished), held_out=rows))
    assert [block.prompt for block in shown if isinstance(block, Comparison)] == ["gain", "middle", "loss"]
    assert answers.held_out(replace(read(finished), held_out=[])) == []


def test_only_samples_of_ppo_are_shown(finished: Path) -> None:
    rows = [{"step": step, "index": 5, "prompt": "p", "response": step, "score": 1.0} for step in ("sft", "ppo")]
    (table,) = answers.samples(replace(read(finished), samples=rows))
    assert isinstance(table, Table)
    assert [row[2] for row in table.rows] == ["ppo"]
