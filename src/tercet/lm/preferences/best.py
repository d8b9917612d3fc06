"""Filter the SFT data: keep the responses that a judge scores highest."""

import math
from math import ceil

from tercet.lm.data.columns import columns_of
from tercet.lm.data.splits import Sets
from tercet.lm.preferences.functions import call_function, load_score_function
from tercet.runs.progress import say


def best_responses(sets: Sets, judge: str, fraction: float, *, timeout_seconds: float = 0.0) -> Sets:
    """Keep the examples of each set whose chosen response the judge scores highest.

    `fraction` of each set is kept, rounded up, in the original order; responses without a score are the worst. With a
    fraction of 1 the judge is not called.
    """
    if fraction == 1:
        return sets
    function = load_score_function(judge)  # the config names a function if the fraction is below 1
    best: Sets = {}
    for name, examples in sets.items():
        prompts, responses = [e.prompt for e in examples], [e.chosen for e in examples]
        columns = columns_of(examples)
        scores = call_function(function, prompts, responses, columns, timeout_seconds=timeout_seconds).total
        by_score = sorted(range(len(examples)), key=lambda row: math.inf if math.isnan(scores[row]) else -scores[row])
        rows = sorted(by_score[: ceil(fraction * len(examples))])
        best[name] = [examples[row] for row in rows]
        say(f"sft: the judge chose {len(rows):,} of {len(examples):,} responses of {name}")
    return best
