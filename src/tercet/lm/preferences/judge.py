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

_FRIENDLY_ENOUGH = 0.5  # VADER's compound score at which politeness is capped
_MOST_READ = 10_000  # characters; VADER takes quadratic time on a text with a "but"
_FEWEST_WORDS, _MOST_WORDS = 10, 30  # the range of full score
_STEM = 5  # words are compared by their first letters: computer, computers and computing are equal
_STOP_WORDS = """
    a about again all also am an and any anything are as at be because been before being but by can could did do does
    doing done don down ever every few for from get give go going got had has have having he her here hers him his how i
    if in into is it its just know let like made make many me more most much must my name need never no nor not now of
    off on once one only or other our out over own please re really said same say should so some something still such
    tell than that the their them then there these they thing things think this those through to too under until up us
    use used very want was way we well were what when where which while who whom whose why will with would yes yet you
    your yours"""


def polite_and_to_the_point(prompts: list[str], responses: list[str]) -> list[float]:
    """Score each response to its prompt, in [0, 1]; the rule is at the top of this file."""
    return [_score(prompt, response) for prompt, response in zip(prompts, responses, strict=True)]


def politeness(response: str) -> float:
    """Return VADER's sentiment (Hutto and Gilbert 2014): 0 is hostile, 0.5 neutral, 1 at least mildly friendly."""
    compound = _sentiment().polarity_scores(response[:_MOST_READ])["compound"]
    return 0.5 + 0.5 * max(-1.0, min(1.0, compound / _FRIENDLY_ENOUGH))


def relevance(prompt: str, response: str) -> float:
    """Return the share of the prompt's content words in the response; two of them (or the only one) give 1.

    A response without content words of its own is an echo and gets 0. A prompt without content words gives 0.5.
    """
    of_prompt, of_response = _content(_last_question(prompt)), _content(response)
    if of_response and of_response <= of_prompt:
        return 0.0
    if not of_prompt:
        return 0.5
    return min(1.0, len(of_prompt & of_response) / min(2, len(of_prompt)))


def length(response: str) -> float:
    """Return 1 for 10 to 30 words, falling linearly to 0 at 0 and at 60 words."""
    num_words = len(_words(response))
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
    words = _words(response)
    pairs = list(pairwise(words))
    fresh = len(set(pairs)) / len(pairs) if pairs else 1.0
    num_odd = len(re.findall(r"[^\w\s.,;:?'\"()-]|(?<=[!?.])[!?.]", response.replace("!", "", 1)))
    return fresh**2 / (1 + 0.5 * num_odd)


def _score(prompt: str, response: str) -> float:
    parts = 0.2 * politeness(response) + 0.4 * relevance(prompt, response)
    return (parts + 0.25 * length(response) + 0.15 * completeness(response)) * variety(response)


def _last_question(prompt: str) -> str:
    """Return the last user turn of a Human/Assistant transcript, or the whole prompt."""
    return re.split(r"(?:^|\n)Human:", prompt)[-1].removesuffix("Assistant:")


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z0-9]+(?:'[a-z]+)?", text.lower().replace("’", "'"))


def _content(text: str) -> set[str]:
    """Return the stems of the words that are not stop words."""
    bare = (word.split("'")[0] for word in _words(text))
    return {word[:_STEM] for word in bare if word not in _stop_words() and len(word) > 1}


@lru_cache(maxsize=1)
def _stop_words() -> frozenset[str]:
    return frozenset(_STOP_WORDS.split())


@lru_cache(maxsize=1)
def _sentiment() -> SentimentIntensityAnalyzer:
    return SentimentIntensityAnalyzer()
