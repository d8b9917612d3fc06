"""Digests of what a step reads, by which a run sees that its data has changed."""

import hashlib
from collections import defaultdict
from pathlib import Path

from tercet.config.lm import LmConfig
from tercet.lm.data.splits import StepName, step_examples


def digests(config: LmConfig, step: str) -> dict[str, str]:
    """The SHA-256 of each set that the step reads, by the set's name: its examples in order, held-out ones too."""
    reads: dict[str, list[StepName]] = {"sft": ["sft"], "reward": ["reward"], "ppo": ["ppo"], "eval": ["ppo"]}
    if step == "ppo" and config.ppo.ptx_coef:
        reads["ppo"].append("sft")
    found = defaultdict(hashlib.sha256)
    for name in reads[step]:
        examples = step_examples(config.data, name)
        for part in (examples.train, examples.validation, examples.test):
            for of_set, rows in part.items():
                text = repr([(row.messages, row.chosen, row.rejected) for row in rows])
                found[of_set].update(text.encode("utf-8", "surrogatepass"))
    if step == "eval" and config.eval.reward_texts and Path(config.eval.reward_texts).is_file():
        found["reward_texts"] = hashlib.sha256(Path(config.eval.reward_texts).read_bytes())
    return {name: digest.hexdigest() for name, digest in found.items()}
