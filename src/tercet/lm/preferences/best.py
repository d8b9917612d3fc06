"""The responses of the data that a judge likes best, for SFT."""

from math import ceil

from tercet.lm.data.splits import Sets
from tercet.lm.preferences.functions import call_function, load_score_function
from tercet.runs.progress import say


def best_responses(sets: Sets, judge: str, fraction: float) -> Sets:
    """Keep the given fraction of each set, rounded up: the examples whose chosen response the judge scores highest.

    They stay in their order. All are kept, without a call of the judge, if the fraction is 1.
    """
    if fraction == 1:
        return sets
    function = load_score_function(judge)  # the config has a function, or the fraction is 1
    best: Sets = {}
    for name, examples in sets.items():
        scores = call_function(function, [e.prompt for e in examples], [e.chosen for e in examples])
        by_score = sorted(range(len(examples)), key=lambda row: -scores[row])
        rows = sorted(by_score[: ceil(fraction * len(examples))])
        best[name] = [examples[row] for row in rows]
        say(f"sft: the judge chose {len(rows):,} of {len(examples):,} responses of {name}")
    return best
