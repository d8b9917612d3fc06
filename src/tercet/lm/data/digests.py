"""Digests of the data of a step, by which a run detects that its data has changed."""

import hashlib
from collections import defaultdict
from collections.abc import Collection
from pathlib import Path

from tercet.config.lm import LmConfig
from tercet.lm.data.cells import EVERY
from tercet.lm.data.columns import columns_of_run, columns_of_step
from tercet.lm.data.examples import Example
from tercet.lm.data.splits import StepName, step_examples
from tercet.runs.rounds import kind_of


def digests(config: LmConfig, step: str) -> dict[str, str]:
    """Return the SHA-256 of each set that the step reads, by name: its examples in order, held-out ones too."""
    steps_read: dict[str, list[StepName]] = {
        "sft": ["sft"],
        "reward": ["reward"],
        "ppo": ["ppo"],
        "dpo": ["reward", "ppo"],
        "compare": ["ppo"],
        "eval": ["ppo"],
    }
    kind = kind_of(step)
    if kind == "ppo" and config.ppo.ptx_coef:
        steps_read["ppo"].append("sft")
    hashes = defaultdict(hashlib.sha256)
    of_run, of_step = columns_of_run(config), columns_of_step(config, kind)
    for name in steps_read[kind]:
        examples = step_examples(config.data, name, of_run)
        for part in (examples.train, examples.validation, examples.test):
            for set_name, rows in part.items():
                text = repr([(row.messages, row.chosen, row.rejected, *_taken(row, of_step)) for row in rows])
                hashes[set_name].update(text.encode("utf-8", "surrogatepass"))
    if kind == "eval" and config.eval.reward_texts and Path(config.eval.reward_texts).is_file():
        hashes["reward_texts"] = hashlib.sha256(Path(config.eval.reward_texts).read_bytes())
    return {name: digest.hexdigest() for name, digest in hashes.items()}


def _taken(example: Example, columns: Collection[str]) -> list[object]:
    """Return the values of the columns that the functions of the step take."""
    values = example.columns if columns else {}
    return [(name, value) for name, value in values.items() if name in columns or EVERY in columns]
