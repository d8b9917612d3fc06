"""Measure the built-in judges: accuracy, correlation with length, and seconds; print a Markdown table.

    python benchmarks/judges.py runs/default

Accuracy is the share of prompts of the built-in sets for which the judge prefers the human answer over the human answer
to another prompt. The correlation is with the number of words, over the SFT model's held-out responses of a run.
"""

import argparse
import json
import random
import time
from pathlib import Path

import torch

from tercet.config.load import load_lm_config
from tercet.core.intervals import win
from tercet.core.statistics import correlation
from tercet.lm.data.splits import flat, step_examples
from tercet.lm.preferences.functions import call_function, load_score_function

JUDGES = [
    "tercet.lm.preferences.judge:polite_and_to_the_point",
    "tercet.lm.preferences.on_topic:on_topic_and_whole",
    "tercet.lm.preferences.asks:answers_what_is_asked",
]


def accuracy(judge: str, prompts: list[str], answers: list[str]) -> float:
    """Return how often the judge prefers the prompt's answer over that of the next prompt; a tie counts half."""
    function = load_score_function(judge)
    own = call_function(function, prompts, answers).total
    other = call_function(function, prompts, [*answers[1:], answers[0]]).total
    return sum(map(win, own, other)) / len(prompts)


def main() -> None:
    """Print a row for each judge that is a function."""
    command = argparse.ArgumentParser(description=__doc__)
    command.add_argument("run", type=Path, help="folder of a finished run")
    command.add_argument("--pairs", type=int, default=200)
    asked = command.parse_args()
    torch.set_num_threads(1)
    config = load_lm_config("smollm2", [])
    examples = [example for example in flat(step_examples(config.data, "sft").train) if example.chosen]
    some = random.Random(0).sample(examples, asked.pairs)
    held_out = json.loads((asked.run / "eval" / "held_out.json").read_text(encoding="utf-8"))
    prompts = [row["prompt"] for row in held_out]
    responses = [row["answers"]["sft"] for row in held_out]
    print("| judge | accuracy | correlation with the number of words | CPU seconds per 1,000 responses |")
    print("|---|---|---|---|")
    for judge in JUDGES:
        right = accuracy(judge, [example.prompt for example in some], [example.chosen for example in some])
        start = time.process_time()
        scores = call_function(load_score_function(judge), prompts, responses).total
        seconds = 1000 * (time.process_time() - start) / len(responses)
        words = torch.tensor([len(response.split()) for response in responses]).float()
        of_length = correlation(torch.tensor(scores), words)
        print(f"| `{judge}` | {right:.2f} | {of_length:.2f} | {seconds:.1f} |")


if __name__ == "__main__":
    main()
