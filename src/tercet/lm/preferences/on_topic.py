"""A judge of topic and form: is the response about the prompt, and is it a complete sentence of suitable length?

    score = (0.6 topic + 0.2 length + 0.2 completeness) * variety                                 each part in [0, 1]

The topic is the cosine similarity of prompt and response under a sentence encoder (`lm/preferences/sentences.py`),
which compares meaning and not words. A copy of the prompt is very similar to the prompt, so the topic counts in full
only if the response has at least three words that the prompt does not have. Completeness and variety are those of
`lm/preferences/judge.py`.
"""

from tercet.lm.preferences.judge import completeness, variety
from tercet.lm.preferences.sentences import similarity
from tercet.lm.preferences.words import last_question, words

_SIMILAR_ENOUGH = 0.7  # cosine that gets the full topic score; higher values are mostly copies
_FEWEST_NEW = 3  # words that are not in the prompt
_FEWEST_WORDS, _MOST_WORDS = 5, 25  # the range that gets the full length score


def on_topic_and_whole(prompts: list[str], responses: list[str]) -> list[float]:
    """Score each response in [0, 1] with the formula at the top of this file."""
    questions = [last_question(prompt) for prompt in prompts]
    cosines = similarity(questions, responses)
    return [_score(*row) for row in zip(questions, responses, cosines, strict=True)]


def _score(question: str, response: str, cosine: float) -> float:
    topic = min(1.0, max(0.0, cosine) / _SIMILAR_ENOUGH) * newness(question, response)
    return (0.6 * topic + 0.2 * length(response) + 0.2 * completeness(response)) * variety(response)


def newness(question: str, response: str) -> float:
    """Return 1 for at least three words that the question does not have, falling linearly to 0 for none."""
    return min(1.0, len(set(words(response)) - set(words(question))) / _FEWEST_NEW)


def length(response: str) -> float:
    """Return 1 for 5 to 25 words, falling linearly to 0 at 0 and at 50 words."""
    num_words = len(words(response))
    return max(0.0, min(1.0, num_words / _FEWEST_WORDS, 2 - num_words / _MOST_WORDS))
