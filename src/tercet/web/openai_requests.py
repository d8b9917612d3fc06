"""Requests in OpenAI's format, checked: what is wrong is named, and what would have no effect is refused."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from tercet.lm.data.examples import Message, Role
from tercet.lm.serving.asks import Ask
from tercet.web.guard import Refused, Tree

LARGEST_REQUEST = 4 << 20
_BOOL = "true or false", " true 或 false"
MOST_TOKENS, MOST_CHOICES, MOST_LIKELY, MOST_STOPS = 1 << 17, 16, 20, 4
_ROLES: dict[str, Role] = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
# fields that change nothing in a response, whatever their value
_NO_EFFECT = {
    "user",
    "metadata",
    "store",
    "service_tier",
    "safety_identifier",
    "prompt_cache_key",
    "parallel_tool_calls",
}
# fields of OpenAI that are not supported, and the values of them that mean nothing
_NEUTRAL: dict[str, tuple[Any, ...]] = {  # Any: JSON
    "frequency_penalty": (0, None),
    "presence_penalty": (0, None),
    "logit_bias": ({}, None),
    "tools": ([], None),
    "tool_choice": ("none", "auto", None),
    "response_format": ({"type": "text"}, None),
    "modalities": (["text"], None),
    "echo": (False, None),
    "suffix": ("", None),
    "best_of": (1, None),
}


@dataclass(frozen=True)
class Wanted:
    """What a request wants: one Ask for each of its prompts, and the form of the reply."""

    asks: tuple[Ask, ...]
    stream: bool
    with_usage: bool  # a stream ends with the number of tokens

    @property
    def stage(self) -> str:
        """The stage that answers."""
        return self.asks[0].stage


def chat_request(given: Tree, stages: Collection[str]) -> Wanted:
    """Read a request for `/v1/chat/completions`; raise Refused."""
    fields = _Fields(given, stages)
    turns = turns_of(given.get("messages"))
    wants = fields.take("logprobs", False, _is_bool, *_BOOL)
    likely = fields.whole("top_logprobs", 0, 0, MOST_LIKELY)
    if likely and not wants:
        raise _bad("top_logprobs", "needs logprobs=true", "需要 logprobs=true")
    newest = "max_completion_tokens" if given.get("max_completion_tokens") is not None else "max_tokens"
    return fields.wanted([turns], num_likely=likely if wants else None, limit=newest)


def text_request(given: Tree, stages: Collection[str]) -> Wanted:
    """Read a request for `/v1/completions`; raise Refused."""
    fields = _Fields(given, stages)
    kinds = "a text, a list of texts, token ids, or a list of them"
    prompt = fields.take("prompt", None, _is_prompt, kinds, "文本、文本列表、词元 id 或其列表")
    if prompt is None:
        raise _bad("prompt", "is missing", "缺失")
    prompts = [prompt] if isinstance(prompt, str) or isinstance(prompt[0], int) else prompt
    wants = given.get("logprobs") is not None
    likely = fields.whole("logprobs", 0, 0, MOST_LIKELY)
    asked = [one if isinstance(one, str) else tuple(one) for one in prompts]
    return fields.wanted(asked, num_likely=likely if wants else None, limit="max_tokens")


class _Fields:
    """The fields of a request; those that nobody takes are refused."""

    def __init__(self, given: Tree, stages: Collection[str]) -> None:
        self._given, self._taken = given, {"model", "messages", "prompt"}
        stage = given.get("model")
        if not isinstance(stage, str):
            all_stages = ", ".join(stages)
            raise _bad("model", f"is missing; this run has {all_stages}", f"缺失；此运行有 {all_stages}")
        if stage not in stages:
            raise no_model(stage, stages)
        self.stage = stage

    def take(self, name: str, default: Any, fits: Callable[[Any], bool], kind: str, zh: str) -> Any:  # Any: JSON
        """Return a field, or the default if it is absent or null; `kind` and `zh` say what it must be."""
        self._taken.add(name)
        value = self._given.get(name)
        if value is None:
            return default
        if not fits(value):
            raise _bad(name, f"must be {kind}, not {_shown(value)}", f"须为{zh}，而不是 {_shown(value)}")
        return value

    def whole(self, name: str, default: int | None, least: int, most: int) -> Any:  # Any: int, or the default
        """Return a whole number between two limits."""
        limits = f"a whole number of {least} to {most}", f" {least} 到 {most} 的整数"
        return self.take(name, default, lambda v: _is_whole(v) and least <= v <= most, *limits)

    def number(self, name: str, default: float | None, least: float, most: float) -> Any:  # Any: float, or the default
        """Return a number between two limits."""
        limits = f"a number of {least:g} to {most:g}", f" {least:g} 到 {most:g} 的数"
        value = self.take(name, default, lambda v: _is_number(v) and least <= v <= most, *limits)
        return None if value is None else float(value)

    def wanted(self, prompts: list[Any], *, num_likely: int | None, limit: str) -> Wanted:  # Any: those of an Ask
        """Read the fields of both kinds of requests."""
        texts = f"a text or a list of at most {MOST_STOPS} texts, none of them empty"
        stop = self.take("stop", (), _is_stop, texts, f"文本，或最多 {MOST_STOPS} 个非空文本的列表")
        stream = self.take("stream", False, _is_bool, *_BOOL)
        options = self.take("stream_options", {}, lambda v: isinstance(v, dict), "an object", "对象")
        asks = [
            Ask(
                self.stage,
                prompt,
                max_tokens=self.whole(limit, None, 1, MOST_TOKENS),
                temperature=self.number("temperature", None, 0.0, 2.0),
                top_p=self.number("top_p", 1.0, 0.0, 1.0),
                stop=(stop,) if isinstance(stop, str) else tuple(stop),
                seed=self.whole("seed", None, -(2**63), 2**63 - 1),
                num_choices=self.whole("n", 1, 1, MOST_CHOICES),
                num_likely=num_likely,
            )
            for prompt in prompts
        ]
        self._refuse_the_rest()
        return Wanted(tuple(asks), stream, bool(options.get("include_usage")))

    def _refuse_the_rest(self) -> None:
        for name in self._given.keys() - self._taken - _NO_EFFECT:
            value = self._given[name]
            if name == "max_tokens" and value is None:  # beside max_completion_tokens
                continue
            if name not in _NEUTRAL:
                raise _bad(name, "is not a field of this request", "不是此请求的字段")
            if value not in _NEUTRAL[name]:
                said = f"{_shown(value)} is not supported; leave it out", f"不支持 {_shown(value)}；请去掉它"
                raise _bad(name, *said, code="unsupported_parameter")


def turns_of(messages: Any) -> tuple[Message, ...]:  # Any: JSON
    """Read a conversation that a response continues; raise Refused."""
    if not isinstance(messages, list):
        said = f"must be a list of messages, not {_shown(messages)}", f"须为消息列表，而不是 {_shown(messages)}"
        raise _bad("messages", *said)
    turns = tuple(_turn(message, number) for number, message in enumerate(messages))
    if not turns or turns[-1].role == "assistant":
        raise _bad("messages", "must end with a message of the user", "最后一条须为用户的消息")
    return turns


def no_model(name: str, stages: Collection[str]) -> Refused:
    """Return the refusal of a stage that the run does not have."""
    all_stages = ", ".join(stages)
    said = f"model {name!r}: this run has {all_stages}", f"没有模型 {name!r}：此运行有 {all_stages}"
    return Refused(404, *said, param="model", code="model_not_found")


def _turn(message: Any, number: int) -> Message:  # Any: JSON
    place = f"messages[{number}]"
    role = message.get("role") if isinstance(message, dict) else None
    if not isinstance(role, str) or role not in _ROLES:
        roles = ", ".join(_ROLES)
        raise _bad(place, f"must have a role, one of {roles}, and a content", f"须有角色（{roles}）和内容")
    content = message.get("content")
    if isinstance(content, list) and all(isinstance(part, dict) and part.get("type") == "text" for part in content):
        content = "".join(str(part.get("text", "")) for part in content)
    if not isinstance(content, str):
        said = "must be a text, or a list of parts of the type text", "须为文本，或类型为 text 的部分的列表"
        raise _bad(f"{place}.content", *said)
    return Message(_ROLES[role], content.strip())


def _bad(param: str, reason: str, zh: str, *, code: str | None = None) -> Refused:
    return Refused(400, f"{param}: {reason}", f"{param}：{zh}", param=param, code=code)


def _shown(value: Any) -> str:  # Any: JSON
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."


def _is_bool(value: Any) -> bool:  # Any: JSON, also below
    return isinstance(value, bool)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_stop(value: Any) -> bool:
    texts = [value] if isinstance(value, str) else value
    return isinstance(texts, list) and len(texts) <= MOST_STOPS and all(isinstance(one, str) and one for one in texts)


def _is_prompt(value: Any) -> bool:
    if isinstance(value, str):
        return True
    if not isinstance(value, list) or not value:
        return False
    ids = all(_is_whole(one) for one in value)
    many = all(isinstance(one, str) or (isinstance(one, list) and one and all(map(_is_whole, one))) for one in value)
    return ids or (many and len(value) <= MOST_CHOICES)
