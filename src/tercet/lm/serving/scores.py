"""The reward model's score of an answer, and of the answer up to each of its tokens."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from tercet.config.lm import LmConfig
from tercet.errors import InputError
from tercet.lm.data.examples import Example, Message
from tercet.lm.models.configs import window_of
from tercet.lm.models.roles import load_score_model
from tercet.lm.serving.asks import Scored
from tercet.lm.text.encoder import Encoder
from tercet.lm.text.token_view import text_of_each
from tercet.train.device import device_of


class Scores:
    """The reward model of a run, loaded at its first use; for one thread."""

    def __init__(self, config: LmConfig, path: str, encoder: Encoder) -> None:
        self._config, self._path = config, path
        self._encoder = replace(encoder, max_response_tokens=10**9)  # a shortened answer would get another score
        self._model = None

    @property
    def is_loaded(self) -> bool:
        """False until the first answer is scored."""
        return self._model is not None

    @torch.no_grad()
    def of(self, messages: Sequence[Message], text: str, *, ended: bool) -> Scored:
        """Score an answer; with `ended` it has its end token, as in training."""
        if self._model is None:
            self._model = load_score_model(self._config, path=self._path, trained=True)
        prompt = self._encoder.prompt(Example(tuple(messages), "", None, "", "messages"))
        answer = self._encoder.response(text, ended=ended)
        if not answer:
            raise InputError("text: an empty answer that did not end has no score")
        window = window_of(self._model.model.config)
        if window is not None and len(prompt) + len(answer) > window:
            raise InputError(f"messages: {len(prompt) + len(answer)} tokens, but the reward model reads {window}")
        batch = self._encoder.batch([prompt], [answer]).to(device_of(self._config.device))
        scores = self._model(batch)[0, len(prompt) :].tolist()
        return Scored(scores[-1], tuple(zip(text_of_each(self._encoder.tokenizer, answer), scores, strict=True)))
