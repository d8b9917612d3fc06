"""Encode the texts of a run: its tokenizer, prompt style and length limits."""

from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import cast

from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tercet.config.lm import DataConfig, LmConfig, NetworkConfig
from tercet.errors import InputError
from tercet.lm.batch import TokenBatch, pad
from tercet.lm.data.examples import Example
from tercet.lm.data.splits import Sets, StepExamples, StepName, filtered, flat, step_examples
from tercet.lm.models.configs import named_by_key, window_of
from tercet.lm.text.ends import Ends
from tercet.lm.text.ids import Style, decode_response, prompt_ids, prompt_text, response_ids
from tercet.lm.text.template import check_template, extra_before_response, writes_date
from tercet.lm.text.tokenizers import load_tokenizer
from tercet.runs.progress import say


@dataclass(frozen=True)
class Encoder:
    """Encode prompts and responses in the same way in every step.

    The ids of an example's texts are made once and kept as long as the encoder.
    """

    tokenizer: PreTrainedTokenizerBase
    ends: Ends
    style: Style
    max_prompt_tokens: int
    max_response_tokens: int
    max_sampled_tokens: int
    _ids: dict[tuple[object, ...], "array[int]"] = field(default_factory=dict, init=False, repr=False, compare=False)

    @classmethod
    def of(cls, config: LmConfig) -> "Encoder":
        """Load the encoder of a run.

        Its tokenizer is model.tokenizer, else that of the policy it starts from. model.chat_template replaces its chat
        template.
        """
        data, model = config.data, config.model
        folder = config.ppo.policy or ("" if model.path in ("random", "smollm2") else model.path)
        tokenizer_path = "" if model.tokenizer else config.ppo.policy
        with named_by_key(config, tokenizer_path):
            tokenizer = load_tokenizer(model, tokenizer_path)
            if model.chat_template:
                tokenizer.chat_template = model.chat_template
            if data.style == "chat":
                with _located("model.chat_template") if model.chat_template else nullcontext():
                    check_template(tokenizer)
            ends = Ends.of(tokenizer, data.style, folder, trust=model.trust_remote_code)
        limits = (data.max_prompt_tokens, data.max_response_tokens, config.ppo.max_response_tokens)
        return cls(tokenizer, ends, data.style, *limits)

    def with_tokenizer_at(self, path: str, networks: NetworkConfig) -> "Encoder":
        """Return an encoder of the same style and limits with the tokenizer of the model at `path`."""
        with named_by_key(networks, path):
            tokenizer = load_tokenizer(networks.model, path)
            if self.style == "chat":
                check_template(tokenizer)
            ends = Ends.of(tokenizer, self.style, path, trust=networks.model.trust_remote_code)
        return replace(self, tokenizer=tokenizer, ends=ends)

    @property
    def pad_id(self) -> int:
        """The id that pads shorter rows."""
        return cast(int, self.tokenizer.pad_token_id)  # transformers types it as anything; load_tokenizer set it

    def prompt(self, example: Example) -> list[int]:
        """Encode the example's prompt, with what precedes the response; InputError if the chat template refuses it."""

        def encode() -> list[int]:
            with _located(example.location):
                return prompt_ids(self.tokenizer, example.messages, self.style)

        return self._once(example.messages, encode)

    def chosen(self, example: Example) -> list[int]:
        """Encode the example's chosen response."""
        return self._response_once(example.chosen, example.chosen_ended)

    def rejected(self, example: Example) -> list[int]:
        """Encode the example's rejected response; just the end token if it has none."""
        return self._response_once(example.rejected or "", example.rejected_ended)

    def response(self, text: str, *, ended: bool = True) -> list[int]:
        """Encode a response, with an end token unless it is cut off here or was when it was sampled (not `ended`)."""
        most, end_id = self.max_response_tokens, self.ends.written
        return response_ids(self.tokenizer, text, self.style, max_tokens=most, end_id=end_id, ended=ended)

    def text(self, response: Sequence[int]) -> str:
        """Decode a response."""
        return decode_response(self.tokenizer, response, self.ends.ids)

    def batch(self, prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]]) -> TokenBatch:
        """Pad prompts and responses to one batch on the CPU."""
        return pad(prompts, responses, pad_id=self.pad_id)

    def within_limits(self, sets: Sets, what: str) -> Sets:
        """Drop prompts of more than `max_prompt_tokens` and report their number; InputError if none is left."""
        within = {name: [e for e in rows if self._fits(e)] for name, rows in sets.items()}
        num_dropped, total = sum(len(sets[n]) - len(within[n]) for n in sets), sum(map(len, sets.values()))
        if num_dropped and num_dropped == total:
            first = next(example for rows in sets.values() for example in rows)
            raise InputError(
                f"{first.location}: this and every other prompt for {what} has more than "
                f"data.max_prompt_tokens={self.max_prompt_tokens} tokens (this one {len(self.prompt(first))}); raise it"
            )
        if num_dropped:
            say(
                f"{what}: {num_dropped} of {total} left out, "
                f"their prompts exceed data.max_prompt_tokens={self.max_prompt_tokens}"
            )
        return within

    def pairs_that_differ(self, examples: StepExamples) -> StepExamples:
        """Drop pairs whose responses are equal once they are cut to length, and report their number.

        Nothing can be learned from such a pair, and it would be measured as a tie.
        """
        dropped = dict(examples.dropped)
        reason = f"equal after data.max_response_tokens={self.max_response_tokens}"
        parts = (examples.train, examples.validation, examples.test)
        train, validation, test = (filtered(sets, self._differs, reason, dropped) for sets in parts)
        if any(examples.train.values()) and not any(train.values()):
            first = next(example for rows in examples.train.values() for example in rows)
            raise InputError(
                f"{first.location}: the responses of this and every other pair are {reason}, "
                "so nothing can be learned; raise it"
            )
        if num_dropped := dropped.get(reason, 0) - examples.dropped.get(reason, 0):
            total = sum(len(rows) for sets in parts for rows in sets.values())
            say(f"reward: {num_dropped} of {total} left out, their responses are {reason}")
        return StepExamples(train, validation, test, dropped)

    def check_window(self, model: PreTrainedModel) -> None:
        """Raise InputError if the longest texts exceed the model's context window, or the token ids its vocabulary."""
        window = window_of(model.config)
        for key, longest in (("data", self.max_response_tokens), ("ppo", self.max_sampled_tokens)):
            needed = self.max_prompt_tokens + longest
            if window is not None and needed > window:
                raise InputError(
                    f"data.max_prompt_tokens={self.max_prompt_tokens} and {key}.max_response_tokens={longest} need "
                    f"{needed} tokens, but the model reads {window}; lower one of them"
                )
        embedded = cast(nn.Embedding, model.get_input_embeddings()).num_embeddings  # a Module, to transformers' types
        num_tokens, added = len(self.tokenizer), self.tokenizer.added_tokens_decoder
        if num_tokens > embedded:
            new = [added[number].content for number in range(embedded, num_tokens) if number in added]
            only_added = len(new) == num_tokens - embedded
            raise InputError(
                f"model.tokenizer: it has {num_tokens} tokens, the model embeds {embedded}; "
                + (
                    f"{', '.join(new[:5])}{', ...' * (len(new) > 5)} were added to the tokenizer alone: give the model "
                    f"rows for them by model.resize_token_embeddings({num_tokens}), and save both in one folder"
                    if only_added
                    else "they do not belong together"
                )
            )

    def _differs(self, example: Example) -> bool:
        if example.rejected is None:
            return True
        return self.chosen(example) != self.rejected(example)

    def _fits(self, example: Example) -> bool:
        # a token has at least one byte of text, except BOS and a leading space: short prompts need no tokenizer
        with _located(example.location):
            text = prompt_text(self.tokenizer, example.messages, self.style)
        if len(text.encode()) + 2 <= self.max_prompt_tokens:
            return True
        return len(self.prompt(example)) <= self.max_prompt_tokens

    def _response_once(self, text: str, ended: bool) -> list[int]:
        return self._once((text, ended), lambda: self.response(text, ended=ended))

    def _once(self, key: tuple[object, ...], encode: Callable[[], list[int]]) -> list[int]:
        if key not in self._ids:
            self._ids[key] = array("i", encode())  # a quarter of a list's memory
        return self._ids[key].tolist()


@contextmanager
def _located(location: str) -> Iterator[None]:
    """Put a location in front of an InputError's message."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{location}: {error}") from error


def check_conversations(
    encoder: Encoder, data: DataConfig, steps: Iterable[StepName], columns: tuple[str, ...] = ()
) -> None:
    """Raise InputError if the chat template refuses a conversation of one of the steps.

    Each sequence of roles is tried once, and every conversation with tools. Report a template that writes the date or
    formats the last response differently from earlier ones.
    """
    if encoder.style != "chat":
        return
    tried: set[tuple[str, ...]] = set()
    for examples in (step_examples(data, step, columns) for step in steps):
        for example in [*flat(examples.train), *flat(examples.held_out)]:
            roles = tuple(message.role for message in example.messages)
            if roles not in tried or any(message.tools for message in example.messages):
                encoder.prompt(example)
            tried.add(roles)
    if writes_date(encoder.tokenizer):
        say(
            "the chat template writes today's date, so this run's prompts change from day to day; to keep them the "
            "same, give a template with a fixed date in model.chat_template"
        )
    if written := extra_before_response(encoder.tokenizer):
        say(
            f"the chat template writes {written!r} before earlier responses in a conversation, but not after a prompt; "
            "responses are trained and sampled directly after the prompt"
        )


def check_tokenizers(config: LmConfig) -> None:
    """Raise InputError if two roles have different vocabularies: they read the same token ids.

    The reward model's may have extra tokens: a saved one may have a pad token more (`lm/models/heads.py`).
    """

    def vocabulary(path: str) -> dict[str, int]:
        with named_by_key(config, path):
            return load_tokenizer(config.model, path).get_vocab()

    ours = vocabulary("")
    for key, path in (("reward.model", config.reward.model), ("ppo.policy", config.ppo.policy)):
        theirs = vocabulary(path) if path else ours
        if not (ours.items() <= theirs.items() if key == "reward.model" else ours == theirs):
            raise InputError(
                f"{key}: {path!r} has another tokenizer than model.path={config.model.path!r}, and actor, critic and "
                "reward model read the same token ids; give models of one family"
            )
