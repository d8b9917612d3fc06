"""A judge of topic and form: is the response about the prompt, and is it a complete sentence of suitable length?

    score = (0.6 topic + 0.2 length + 0.2 completeness) * variety * opening                       each part in [0, 1]

The topic is the cosine similarity of prompt and response under a sentence encoder (`lm/preferences/sentences.py`),
which compares meaning and not words. A copy of the prompt is very similar to the prompt, so the topic counts in full
only if the response has at least two content words that the prompt does not have. A response that begins with yes or
no is off unless the prompt can be answered so: "No, birds do not migrate" does not say why birds migrate. Completeness
and variety are those of `lm/preferences/judge.py`.
"""

from tercet.lm.preferences.judge import completeness, variety
from tercet.lm.preferences.sentences import similarity
from tercet.lm.preferences.words import content, last_question, words

_SIMILAR_ENOUGH = 0.7  # cosine that gets the full topic score; higher values are mostly copies
_FEWEST_NEW = 2  # content words that are not in the prompt
_YES_OR_NO = ("yes", "yeah", "yep", "no", "nope", "nah", "sure")
_NEVER_YES_OR_NO = (  # first words of prompts that ask for something else
    "what",
    "what's",
    "who",
    "who's",
    "whose",
    "whom",
    "when",
    "where",
    "where's",
    "why",
    "how",
    "which",
    "if",
    "tell",
    "explain",
    "describe",
    "write",
    "name",
    "list",
    "give",
    "please",
)
_FEWEST_WORDS, _MOST_WORDS = 5, 25  # the range that gets the full length score


def on_topic_and_whole(prompts: list[str], responses: list[str]) -> list[float]:
    """Score each response in [0, 1] with the formula at the top of this file."""
    questions = [last_question(prompt) for prompt in prompts]
    cosines = similarity(questions, responses)
    return [_score(*row) for row in zip(questions, responses, cosines, strict=True)]


def _score(question: str, response: str, cosine: float) -> float:
    topic = min(1.0, max(0.0, cosine) / _SIMILAR_ENOUGH) * newness(question, response)
    parts = 0.6 * topic + 0.2 * length(response) + 0.2 * completeness(response)
    return parts * variety(response) * opening(question, response)


def newness(question: str, response: str) -> float:
    """Return 1 for at least two content words that the question does not have, 2/3 for one, and 1/3 for none."""
    return min(1.0, (1 + len(content(response) - content(question))) / (1 + _FEWEST_NEW))


def opening(question: str, response: str) -> float:
    """Return 0.5 for a yes or no that nobody asked for, else 1."""
    first, asked = words(response)[:1], words(question)[:1]
    return 0.5 if asked and first and first[0] in _YES_OR_NO and asked[0] in _NEVER_YES_OR_NO else 1.0


def length(response: str) -> float:
    """Return 1 for 5 to 25 words, falling linearly to 0 at 0 and at 50 words."""
    num_words = len(words(response))
    return max(0.0, min(1.0, num_words / _FEWEST_WORDS, 2 - num_words / _MOST_WORDS))
