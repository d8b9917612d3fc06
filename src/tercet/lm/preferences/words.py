"""Split English texts into words, for the judges."""

import re
from functools import lru_cache

_STEM = 5  # words are compared by their first letters: computer and computing are equal
_STOP_WORDS = """
    a about again all also am an and any anything are as at be because been before being but by can could did do does
    doing done don down ever every few for from get give go going got had has have having he her here hers him his how i
    if in into is it its just know let like made make many me more most much must my name need never no nor not now of
    off on once one only or other our out over own please re really said same say should so some something still such
    tell than that the their them then there these they thing things think this those through to too under until up us
    use used very want was way we well were what when where which while who whom whose why will with would yes yet you
    your yours"""


def last_question(prompt: str) -> str:
    """Return the last user turn of a Human/Assistant transcript, or the whole prompt."""
    return re.split(r"(?:^|\n)Human:", prompt)[-1].removesuffix("Assistant:")


def words(text: str) -> list[str]:
    """Return the words in lower case, without punctuation."""
    return re.findall(r"[a-z0-9]+(?:'[a-z]+)?", text.lower().replace("’", "'"))


def content(text: str) -> set[str]:
    """Return the stems of the words that are not stop words."""
    bare = (word.split("'")[0] for word in words(text))
    return {word[:_STEM] for word in bare if word not in _stop_words() and len(word) > 1}


@lru_cache(maxsize=1)
def _stop_words() -> frozenset[str]:
    return frozenset(_STOP_WORDS.split())
