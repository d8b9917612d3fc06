"""Time a supervised step: `train/fit.py` on random examples in a temporary run folder."""

import argparse
import random
import string
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from torch import nn
from work import Lesson, Moment, lessons, parser, report, shape, step_row

from tercet.config.fit import FitConfig
from tercet.config.lm import LmConfig
from tercet.lm.data.batches import lessons as dealt
from tercet.lm.data.examples import Example, Message
from tercet.lm.data.splits import StepName
from tercet.runs.folder import RunFolder
from tercet.train.fit import LossTerms, fit

B = TypeVar("B")


def asked_for(description: str) -> argparse.Namespace:
    """Return the settings; the defaults are real lengths and 16 examples per step."""
    command = parser(description)
    command.set_defaults(lengths="real", batch=16)
    return command.parse_args()


def config_of(settings: argparse.Namespace) -> LmConfig:
    """Return the work as a config, with bytes as tokens, so that a text of n letters has n tokens."""
    fitted = {
        "batch_size": settings.batch,
        "micro_batch_size": min(settings.batch, settings.micro),
        "checkpoint_every": settings.warmup + settings.iters,
    }
    return LmConfig.model_validate(
        {
            "model": {"path": "random", "architecture": shape(settings), "tokenizer": "bytes"},
            "data": {"train": ["random.jsonl"], "style": "plain", "max_response_tokens": 2 * settings.response},
            "sft": fitted,
            "reward": fitted,
        }
    )


def examples(settings: argparse.Namespace) -> list[Example]:
    """Return texts with the lengths of `work.py::lessons`."""
    return [_example(number, lesson) for number, lesson in enumerate(lessons(settings))]


def _example(number: int, lesson: Lesson) -> Example:
    """Return random letters, since equal texts of a micro-batch are scored once."""
    letters = random.Random(number)

    def text(num_tokens: int) -> str:
        # the line end after the prompt and the EOS after an answer are tokens too
        return "".join(letters.choices(string.ascii_letters, k=num_tokens - 1))

    prompt = Message("user", text(lesson.prompt))
    return Example((prompt,), text(lesson.chosen), text(lesson.rejected), "random", f"random[{number}]")


def timed_fit(
    settings: argparse.Namespace,
    config: LmConfig,
    *,
    step: StepName,
    model: nn.Module,
    batches: Callable[[Sequence[Example]], Sequence[B]],
    count: Callable[[B], int],
    num_tokens: Callable[[B], int],
    loss: Callable[[B], LossTerms],
) -> None:
    """Take all steps, and report the times after the warm-up, each from one optimizer step to the next."""
    fitted: FitConfig = config.sft if step == "sft" else config.reward
    todo = dealt({"random": examples(settings)}, config.data, fitted, step=step, seed=0)
    tokens: list[int] = []
    moments: list[Moment] = []

    def cut(rows: Sequence[int]) -> Sequence[B]:
        parts = batches([todo.examples[row] for row in rows])
        tokens.append(sum(map(num_tokens, parts)))
        return parts

    def measure(_: int) -> dict[str, float]:
        moments.append(Moment.now())
        return {}

    with tempfile.TemporaryDirectory() as folder, RunFolder.open(Path(folder) / "run", config, preset="bench") as run:
        moments.append(Moment.now())
        with run.step(step, total=len(todo.plan.rows), shown=[]) as under_way:
            fit(
                under_way,
                modules={"model": model},
                plan=todo.plan.rows,
                micro_batches=cut,
                count=count,
                loss=loss,
                config=fitted,
                seed=0,
                metric_prefix=step,
                measure=measure,
            )
    rows = [step_row(start, end, num) for start, end, num in zip(moments[:-1], moments[1:], tokens, strict=True)]
    report("tercet", settings, rows[settings.warmup :], what=step)
