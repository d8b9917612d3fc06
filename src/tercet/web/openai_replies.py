"""Replies in OpenAI's format, whole or as the chunks of a stream."""

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tercet.lm.serving.asks import Piece, Token
from tercet.web.guard import Refused, Tree


def error_body(refused: Refused, text: str) -> Tree:
    """Return the body of an error."""
    kind = "server_error" if refused.status >= 500 else "invalid_request_error"
    return {"error": {"message": text, "type": kind, "param": refused.param, "code": refused.code}}


def model_list(stages: Sequence[str], run: str, created: int) -> Tree:
    """Return the reply to `/v1/models`."""
    return {"object": "list", "data": [model(stage, run, created) for stage in stages]}


def model(stage: str, run: str, created: int) -> Tree:
    """Return the description of a stage."""
    return {"id": stage, "object": "model", "created": created, "owned_by": run}


@dataclass
class Choice:
    """What has been said of one choice."""

    text: str = ""
    tokens: list[Token] = field(default_factory=list)
    finish: str = ""
    num_tokens: int = 0


class Reply:
    """The reply to a request: pieces are added, and given out as chunks or as a whole."""

    def __init__(self, stage: str, *, is_chat: bool, with_logprobs: bool) -> None:
        self._is_chat, self._with_logprobs = is_chat, with_logprobs
        prefix, kind = ("chatcmpl", "chat.completion") if is_chat else ("cmpl", "text_completion")
        self._head = {"id": f"{prefix}-{secrets.token_hex(12)}", "created": int(time.time()), "model": stage}
        self._kind = kind
        self._choices: dict[int, Choice] = {}
        self.num_prompt_tokens = 0

    def first_chunk(self, index: int) -> Tree:
        """Return the chunk that opens a choice of a chat."""
        return self._chunk(index, {"delta": {"role": "assistant", "content": ""}, "finish_reason": None})

    def chunk(self, index: int, piece: Piece) -> Tree:
        """Add a piece, and return its chunk."""
        before = self._choices.get(index, Choice()).text
        self.add(index, piece)
        named = {"delta": {"content": piece.text}} if self._is_chat else {"text": piece.text}
        logprobs = {"logprobs": self._logprobs(piece.tokens, before)} if self._with_logprobs else {}
        return self._chunk(index, {**named, **logprobs, "finish_reason": piece.finish or None})

    def last_chunk(self) -> Tree:
        """Return the chunk with the number of tokens."""
        return {**self._head, "object": self._chunk_kind, "choices": [], "usage": self._usage()}

    def add(self, index: int, piece: Piece) -> None:
        """Add a piece of a choice."""
        choice = self._choices.setdefault(index, Choice())
        choice.text += piece.text
        choice.tokens += piece.tokens
        choice.num_tokens += piece.num_tokens
        choice.finish = piece.finish

    def whole(self) -> Tree:
        """Return the whole reply."""
        choices = [self._whole_choice(index, choice) for index, choice in sorted(self._choices.items())]
        return {**self._head, "object": self._kind, "choices": choices, "usage": self._usage()}

    @property
    def _chunk_kind(self) -> str:
        return f"{self._kind}.chunk" if self._is_chat else self._kind

    def _chunk(self, index: int, choice: Tree) -> Tree:
        return {**self._head, "object": self._chunk_kind, "choices": [{"index": index, **choice}]}

    def _whole_choice(self, index: int, choice: Choice) -> Tree:
        message = {"role": "assistant", "content": choice.text, "refusal": None}
        named = {"message": message} if self._is_chat else {"text": choice.text}
        logprobs = self._logprobs(choice.tokens, "") if self._with_logprobs else None
        return {"index": index, **named, "logprobs": logprobs, "finish_reason": choice.finish}

    def _logprobs(self, tokens: Sequence[Token], before: str) -> Tree:
        """Describe tokens; `before` is the text in front of them, for their offsets."""
        if self._is_chat:
            return {"content": [_described(token) for token in tokens], "refusal": None}
        offsets, at = [], len(before)
        for token in tokens:
            offsets.append(at)
            at += len(token.text)
        return {
            "tokens": [token.text for token in tokens],
            "token_logprobs": [_finite(token.logprob) for token in tokens],
            "top_logprobs": [{one.text: _finite(one.logprob) for one in token.likely} for token in tokens],
            "text_offset": offsets,
        }

    def _usage(self) -> Tree:
        written = sum(choice.num_tokens for choice in self._choices.values())
        return {
            "prompt_tokens": self.num_prompt_tokens,
            "completion_tokens": written,
            "total_tokens": self.num_prompt_tokens + written,
        }


def _described(token: Token) -> dict[str, Any]:  # Any: JSON
    return {**_plain(token), "top_logprobs": [_plain(one) for one in token.likely]}


def _plain(token: Token) -> dict[str, Any]:  # Any: JSON
    is_part = "\ufffd" in token.text
    return {
        "token": token.text,
        "logprob": _finite(token.logprob),
        "bytes": None if is_part else list(token.text.encode()),
    }


def _finite(logprob: float) -> float:
    return max(logprob, -9999.0)  # JSON has no -inf
