"""Digests of the data of a step, by which a run detects that its data has changed."""

import hashlib
from collections import defaultdict
from pathlib import Path

from tercet.config.lm import LmConfig
from tercet.lm.data.splits import StepName, step_examples
from tercet.runs.rounds import kind_of


def digests(config: LmConfig, step: str) -> dict[str, str]:
    """Return the SHA-256 of each set that the step reads, by name: its examples in order, held-out ones too."""
    steps_read: dict[str, list[StepName]] = {"sft": ["sft"], "reward": ["reward"], "ppo": ["ppo"], "eval": ["ppo"]}
    kind = kind_of(step)
    if kind == "ppo" and config.ppo.ptx_coef:
        steps_read["ppo"].append("sft")
    hashes = defaultdict(hashlib.sha256)
    for name in steps_read[kind]:
        examples = step_examples(config.data, name)
        for part in (examples.train, examples.validation, examples.test):
            for set_name, rows in part.items():
                text = repr([(row.messages, row.chosen, row.rejected) for row in rows])
                hashes[set_name].update(text.encode("utf-8", "surrogatepass"))
    if kind == "eval" and config.eval.reward_texts and Path(config.eval.reward_texts).is_file():
        hashes["reward_texts"] = hashlib.sha256(Path(config.eval.reward_texts).read_bytes())
    return {name: digest.hexdigest() for name, digest in hashes.items()}
