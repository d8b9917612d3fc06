"""Pairs whose rejected response answers another prompt: they teach the reward model to read the prompt.

The responses of a judged pair are both about their prompt, more or less, so much of what tells them apart is form. A
good response to another prompt is only off topic. Such pairs need no judge and no further sample.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice

import torch

from tercet.errors import InputError
from tercet.lm.data.examples import Example, Message
from tercet.lm.data.splits import Sets, flat
from tercet.runs.progress import say_once
from tercet.train.chance import generator

_PREFERRED = 2  # as many of the prompt's own responses are preferred to each response to another prompt

Response = tuple[str, bool]  # its text, and whether it ended


@dataclass(frozen=True)
class _Prompt:
    example: Example
    opening: str
    best: list[Response]  # the responses that are preferred in a pair, those that are preferred in most pairs first


def with_off_topic(sets: Sets, num: int, *, seed: int) -> Sets:
    """Add pairs to each prompt whose rejected responses are the best to `num` other prompts of its set, at random.

    The prompt's two best responses are preferred to each; the best are those that are preferred in most pairs. Prompts
    of one conversation are not paired. InputError if no set has two prompts.
    """
    if not num:
        return sets
    added = {name: _pairs(_prompts(rows), num, generator(seed, "off topic", name)) for name, rows in sets.items()}
    if not any(added.values()):
        raise InputError(f"reward.off_topic={num}: no set has pairs of two prompts; give more data, or set it to 0")
    say_once(f"reward: {len(flat(added)):,} pairs added whose rejected response answers another prompt")
    return {name: [*rows, *added[name]] for name, rows in sets.items()}


def _prompts(rows: Sequence[Example]) -> list[_Prompt]:
    pairs_of: dict[tuple[Message, ...], list[Example]] = {}
    for row in rows:
        pairs_of.setdefault(row.messages, []).append(row)
    return [_Prompt(pairs[0], pairs[0].opening, _best_first(pairs)) for pairs in pairs_of.values()]


def _best_first(pairs: Sequence[Example]) -> list[Response]:
    return [response for response, _ in Counter((pair.chosen, pair.chosen_ended) for pair in pairs).most_common()]


def _pairs(prompts: Sequence[_Prompt], num: int, chance: torch.Generator) -> list[Example]:
    if len({prompt.opening for prompt in prompts}) < 2:
        return []
    # on a ring in random order, each prompt takes the best responses to the next ones, so all are taken as often
    ring = [prompts[place] for place in torch.randperm(len(prompts), generator=chance).tolist()]
    return [
        replace(own.example, chosen=better, chosen_ended=ended, rejected=worse, rejected_ended=worse_ended)
        for place, own in enumerate(ring)
        for worse, worse_ended in _next(ring, place, num)
        for better, ended in own.best[:_PREFERRED]
        if better != worse
    ]


def _next(ring: Sequence[_Prompt], place: int, num: int) -> list[Response]:
    """Return the best responses to the next `num` prompts of other conversations, or to fewer if there are fewer."""
    following = (ring[(place + step) % len(ring)] for step in range(1, len(ring)))
    return [other.best[0] for other in islice((o for o in following if o.opening != ring[place].opening), num)]
