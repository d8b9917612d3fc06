"""The built-in data set `chitchat`: questions and answers from conversations, in the package chitchat-dataset.

A pair is a question and its answer. The question is the last sentence of a turn, or the topic that the two people were
given. The answer is the first or the first two messages of the next turn. Each conversation gives at most one pair, so
that training and held-out data never share a conversation: the first one that follows these rules.

- No one rated the conversation below 3 of 10. Conversations without a rating are kept.
- The question has 4 to 20 words, begins like a question, and has no word that refers to an earlier turn.
- The answer has 4 to 25 words in complete sentences, none of which is a question.
- Neither has a web address, emoticon, chat spelling, vulgar word or letter beyond ASCII, or is about the chat itself.
- The question has fewer than eight answers so far, because some topics have up to ninety.

A missing capital at the beginning, a missing full stop at the end and a lower-case `i` are corrected.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tercet.errors import InputError
from tercet.lm.data.examples import Example, Message

_LOWEST_RATING = 3
_MOST_ANSWERS = 8  # to one question
_BEGINNINGS = re.compile(
    r"(what|who|where|when|why|how|which|do|does|did|are|is|was|were|have|has|can|could|would|will|should|if)\b"
    r"|what's|who's|how's|where's",
    re.IGNORECASE,
)
_POINTS_BACK = re.compile(
    r"\b(that|it|its|it's|they|them|their|he|him|his|she|her|hers|this|these|those|there|here|one|ones|else|too|also|"
    r"yours|same|other|then|still|yet|again|instead|both|so|guys|you too|do you mean|do you think|would you do)\b",
    re.IGNORECASE,
)
_SPEAKS_BACK = re.compile(  # an answer that refers to something other than the question
    r"(and|but|so|also|then|that|it|its|it's|they|he|she|this|these|those|oh|wow|hey|hi|hello|nice|cool|what|how)\b",
    re.IGNORECASE,
)
_OF_CHATS = re.compile(
    r"\b(im|ive|ill|dont|cant|thats|didnt|doesnt|isnt|wasnt|u|ur|r|gonna|wanna|gotta|ya|yah|yup|yep|nah|hm+|um+|uh|ok|"
    r"lol|lmao|omg|(ha)+h?|byu|ward|stake|mission|lds|mormon|temple|bishop|provo|utah|chat|chats|chatting|chatbot|bot|"
    r"eve|prompt|convo|conversation|points|leaderboard|partner|challenge)\b|[*_@#/<>:;()\[\]\"^~=+]|\.\.|!!|\?\?|www",
    re.IGNORECASE,
)
_VULGAR = re.compile(
    r"\b(fuck\w*|shit\w*|bitch\w*|cunt|nigger|fag\w*|dick|pussy|ass|asshole|damn|porn|sex\w*|hell|crap|wtf|stupid|kill\w*|"
    r"suicide|rape\w*|drunk|bastard|naked|nude)\b",
    re.IGNORECASE,
)


def read_chitchat(name: str) -> list[Example]:
    """Return one question and answer from each conversation that has one. Sources: `dataset.json[conversation]`."""
    spec = find_spec("chitchat_dataset")
    if spec is None or not spec.submodule_search_locations:
        raise InputError("the data set `chitchat` needs a package: pip install chitchat-dataset")
    pairs = _pairs(Path(spec.submodule_search_locations[0]) / "dataset.json")
    return [Example((Message("user", q),), a, None, name, f"dataset.json[{number}]") for number, q, a in pairs]


@cache  # every step of a run reads the set again
def _pairs(path: Path) -> list[tuple[int, str, str]]:
    conversations: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))  # Any: JSON
    pairs: list[tuple[int, str, str]] = []
    num_answers = Counter[str]()
    for number, conversation in enumerate(conversations.values()):
        if min((conversation.get("ratings") or {"none": _LOWEST_RATING}).values()) < _LOWEST_RATING:
            continue
        for question, answer in _turns(conversation):
            if num_answers[question] < _MOST_ANSWERS:
                pairs.append((number, question, answer))
                num_answers[question] += 1
                break
    return pairs


def _turns(conversation: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the questions and answers of a conversation that follow the rules."""
    turns = [[message["text"] for message in turn] for turn in conversation["messages"]]
    topic = conversation.get("prompt")
    for before, after in zip([[topic or ""], *turns], turns, strict=False):
        if not before or not after or not before[-1].rstrip().endswith("?"):
            continue
        question = _tidied(re.split(r"(?<=[.!?])\s+", before[-1].strip())[-1])
        if not is_clean_question(question):
            continue
        sentences = [_with_full_stop(_tidied(text)) for text in after[:2]]
        for answer in (" ".join(sentences), sentences[0]):
            if is_clean_answer(answer):
                yield question, answer
                break


def is_clean_question(text: str) -> bool:
    """Return True for a complete question that can be understood without the earlier turns."""
    return (
        4 <= len(text.split()) <= 20
        and text.isascii()
        and text.endswith("?")
        and _BEGINNINGS.match(text) is not None
        and not any(pattern.search(text) for pattern in (_POINTS_BACK, _OF_CHATS, _VULGAR))
    )


def is_clean_answer(text: str) -> bool:
    """Return True for one or more complete sentences, none of which is a question."""
    return (
        4 <= len(text.split()) <= 25
        and text.isascii()
        and "?" not in text
        and re.fullmatch(r"[A-Z0-9].*[.!]", text) is not None
        and not _SPEAKS_BACK.match(text)
        and not any(pattern.search(text) for pattern in (_OF_CHATS, _VULGAR))
    )


def _tidied(text: str) -> str:
    """Return the text with single spaces, capitals at the beginning of sentences, and `I` for `i`."""
    text = re.sub(r" (?=[?!.,])", "", " ".join(text.split()))
    text = re.sub(r"\bi\b(?=[' ])", "I", text)
    return re.sub(r"(^|[.!?] )([a-z])", lambda match: match[1] + match[2].upper(), text)


def _with_full_stop(text: str) -> str:
    return f"{text}." if text[-1:].isalnum() else text
