"""A judge that checks with word rules whether a response gives the kind of answer that the prompt asks for.

The score is the mean of the rules that apply:

- kind: a greeting should be answered with a greeting, "who" with a person, "when" with a time, "where" with a place,
  "how many" with an amount, "why" with a reason, and "do you" with yes, no or a statement,
- person: a prompt about "you" should get an answer about "I", a prompt about "me" an answer about "you", and any other
  prompt an answer that is not about "I",
- relevance: the response should share a content word with the prompt.

The rules compare words. They do not understand meaning and do not check facts.
"""

import re

from tercet.lm.preferences.judge import relevance
from tercet.lm.preferences.words import content, last_question, words

_NAME = r"[a-z0-9,;'\"] +[\"']?[A-Z][a-z]"  # a capital inside a sentence
_ME, _YOU = r"\b(i|i'm|i've|i'd|i'll|me|my|mine|we|we're|our|us)\b", r"\b(you|you're|you've|your|yours|yourself)\b"
_PLACES = r"\b(in|at|on|from|near|to|here|there|everywhere|home|inside|outside|around)\b"
_TIMES = r"\d|\b(today|tomorrow|yesterday|now|ago|in|on|at|when|after|before|soon|never|always|every|last|next|once)\b"
_AMOUNTS = (
    r"\d|\b(one|two|three|four|five|six|seven|eight|nine|ten|dozen|hundred|thousand|million|billion|lots?|many|few|"
    r"several|none|no|little|much|very|never|often|sometimes|every|all|about|years?|hours?|minutes?|miles?)\b"
)
_PEOPLE = r"\b(he|she|they|i|me|my|we|people|person|someone|nobody|everyone|man|woman|friend)\b"
_GREETING = (
    r"(hi|hello|hey|good (morning|afternoon|evening|day)|greetings|how do you do|(it is|it's)? ?nice to meet|"
    r"what's up|how('s| are| is) (you|it|things|everything|your day))\b"
)
_GREETING_BACK = (
    r"\b(hi|hello|hey|good|fine|great|nice|well|thanks?|not (much|too)|pretty|i'm (doing|ok|okay)|welcome|pleased?)\b"
)
_AUXILIARY = (
    r"(do|does|did|are|is|am|was|were|have|has|had|can|could|would|will|should|may|might|don't|doesn't|didn't|aren't|"
    r"isn't|wasn't|haven't|can't|couldn't|won't|wouldn't)\b"
)
_STATEMENT = (
    r"(yes|yeah|no|not|nope|sure|of course|maybe|perhaps|definitely|absolutely|probably|certainly|never|always|"
    r"sometimes|usually|often|i|i'm|i've|i'd|we|my|it|it's|they|he|she|you|that|that's|this|there|only|the)\b"
)
# the beginning of a prompt, and what its answer contains: in lower case, or as written
_KINDS = [
    (_GREETING, _GREETING_BACK, ""),
    (r"(who|whose|who's)\b", _PEOPLE, _NAME),
    (r"(when|what (year|time|date|day|month))\b", _TIMES, ""),
    (r"(where|(what|which) (country|city|place|state))\b", _PLACES, _NAME),
    (r"how (many|much|old|far|long|tall|big|often|fast|hard|high)\b", _AMOUNTS, ""),
    (r"(why|how come)\b", r"\b(because|since|so|to|for|as|due|reason|causes?|want|need|if|by)\b", ""),
    (_AUXILIARY, rf"^{_STATEMENT}", ""),
]


def answers_what_is_asked(prompts: list[str], responses: list[str]) -> list[float]:
    """Score each response in [0, 1] with the rules at the top of this file."""
    return [_score(last_question(prompt), response) for prompt, response in zip(prompts, responses, strict=True)]


def _score(question: str, response: str) -> float:
    answer = " ".join(words(response))
    if not answer:
        return 0.0
    asked = " ".join(words(question))
    rules = [*_kind(asked, answer, response), *_person(asked, answer)]
    if content(question):
        rules.append(relevance(question, response))
    return sum(rules) / len(rules) if rules else 0.5


def _kind(asked: str, answer: str, response: str) -> list[float]:
    """Return [1] if the response is of the kind that the prompt asks for, [0] if not, and [] for other prompts."""
    for begins, in_words, as_written in _KINDS:
        if re.match(begins, asked):
            return [float(bool(re.search(in_words, answer) or (as_written and re.search(as_written, response))))]
    return []


def _person(asked: str, answer: str) -> list[float]:
    """Return [1] if the response is about the right person, else [0]."""
    if re.search(_YOU, asked):
        return [float(bool(re.search(_ME, answer)))]
    if re.search(_ME, asked):
        return [float(bool(re.search(_YOU, answer)))]
    return [float(not re.search(_ME, answer))]
