"""A judge of meaning and form: is a response about the prompt, and is it a whole sentence of a suitable length?

    score = (0.6 topic + 0.2 length + 0.2 completeness) * variety                                 each part in [0, 1]

The topic is what a sentence encoder says (`lm/preferences/sentences.py`), so that small talk is compared by meaning and
not by its words. A response that copies the prompt is very similar to it, so the topic counts in full only with three
words that the prompt does not have. Completeness and variety are those of `lm/preferences/judge.py`.
"""

from tercet.lm.preferences.judge import completeness, variety
from tercet.lm.preferences.sentences import similarity
from tercet.lm.preferences.words import last_question, words

_SIMILAR_ENOUGH = 0.7  # cosine at which a response is wholly about the prompt; more would mean copying
_FEWEST_NEW = 3  # words that are not in the prompt
_FEWEST_WORDS, _MOST_WORDS = 5, 25  # the range of full score


def on_topic_and_whole(prompts: list[str], responses: list[str]) -> list[float]:
    """Score each response to its prompt, in [0, 1]; the rule is at the top of this file."""
    questions = [last_question(prompt) for prompt in prompts]
    cosines = similarity(questions, responses)
    return [_score(*row) for row in zip(questions, responses, cosines, strict=True)]


def _score(question: str, response: str, cosine: float) -> float:
    topic = min(1.0, max(0.0, cosine) / _SIMILAR_ENOUGH) * newness(question, response)
    return (0.6 * topic + 0.2 * length(response) + 0.2 * completeness(response)) * variety(response)


def newness(question: str, response: str) -> float:
    """Return 1 for a response with three words that the question does not have, falling linearly to 0 at none."""
    return min(1.0, len(set(words(response)) - set(words(question))) / _FEWEST_NEW)


def length(response: str) -> float:
    """Return 1 for 5 to 25 words, falling linearly to 0 at 0 and at 50 words."""
    num_words = len(words(response))
    return max(0.0, min(1.0, num_words / _FEWEST_WORDS, 2 - num_words / _MOST_WORDS))
