"""A rule in place of a human judge: is a response friendly, relevant, complete and of a suitable length?

    score = (0.2 politeness + 0.4 relevance + 0.25 length + 0.15 completeness) * variety          each part in [0, 1]

Politeness alone is easily gamed with thanks and smiles, so it is capped at mild friendliness. A response that ignores
the prompt, copies it, repeats itself or breaks off loses more than politeness can gain. The rule is for English, does
not check facts, and is deterministic.
"""

import re
from functools import lru_cache
from itertools import pairwise

from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

from tercet.lm.preferences.words import content, last_question, words

_FRIENDLY_ENOUGH = 0.5  # VADER's compound score at which politeness is capped
_MOST_READ = 10_000  # characters; VADER takes quadratic time on a text with a "but"
_FEWEST_WORDS, _MOST_WORDS = 10, 30  # the range of full score


def polite_and_to_the_point(prompts: list[str], responses: list[str]) -> list[float]:
    """Score each response to its prompt, in [0, 1]; the rule is at the top of this file."""
    return [_score(prompt, response) for prompt, response in zip(prompts, responses, strict=True)]


def politeness_alone(prompts: list[str], responses: list[str]) -> list[float]:
    """Score the politeness of each response and nothing else, in [0, 1]; the preset `hacked` shows how it is gamed."""
    return [politeness(response) for response in responses]


def politeness(response: str) -> float:
    """Return VADER's sentiment (Hutto and Gilbert 2014): 0 is hostile, 0.5 neutral, 1 at least mildly friendly."""
    compound = _sentiment().polarity_scores(response[:_MOST_READ])["compound"]
    return 0.5 + 0.5 * max(-1.0, min(1.0, compound / _FRIENDLY_ENOUGH))


def relevance(prompt: str, response: str) -> float:
    """Return the share of the prompt's content words in the response; two of them (or the only one) give 1.

    A response without content words of its own is an echo and gets 0. A prompt without content words gives 0.5.
    """
    of_prompt, of_response = content(last_question(prompt)), content(response)
    if of_response and of_response <= of_prompt:
        return 0.0
    if not of_prompt:
        return 0.5
    return min(1.0, len(of_prompt & of_response) / min(2, len(of_prompt)))


def length(response: str) -> float:
    """Return 1 for 10 to 30 words, falling linearly to 0 at 0 and at 60 words."""
    num_words = len(words(response))
    return max(0.0, min(1.0, num_words / _FEWEST_WORDS, 2 - num_words / _MOST_WORDS))


def completeness(response: str) -> float:
    """Return 1 for a response that begins like a sentence and ends with an end mark, 0.5 for one of the two."""
    text = response.strip()
    begins = re.match(r"[\"'(]?[A-Z0-9]", text) is not None
    ends = re.search(r"[.!?][\"')]?$", text) is not None
    return 0.5 * begins + 0.5 * ends


def variety(response: str) -> float:
    """Return the squared share of distinct word pairs, divided by 1 + half the number of odd characters.

    Ordinary prose gets 1. Odd characters are emojis, symbols, doubled end marks, and every exclamation mark after the
    first.
    """
    pairs = list(pairwise(words(response)))
    fresh = len(set(pairs)) / len(pairs) if pairs else 1.0
    num_odd = len(re.findall(r"[^\w\s.,;:?'\"()-]|(?<=[!?.])[!?.]", response.replace("!", "", 1)))
    return fresh**2 / (1 + 0.5 * num_odd)


def _score(prompt: str, response: str) -> float:
    parts = 0.2 * politeness(response) + 0.4 * relevance(prompt, response)
    return (parts + 0.25 * length(response) + 0.15 * completeness(response)) * variety(response)


@lru_cache(maxsize=1)
def _sentiment() -> SentimentIntensityAnalyzer:
    return SentimentIntensityAnalyzer()
