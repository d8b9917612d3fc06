"""Responses that are sampled together, one token for each at a time; each has settings of its own."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tercet.core.categorical import NO_ACTION, nucleus, sample
from tercet.errors import FailedError
from tercet.lm.cpu.decoder import Decoder
from tercet.lm.sampling.stepper import Stepper
from tercet.lm.serving.asks import Ask, Deliver, Piece, Token
from tercet.lm.serving.vocabulary import Vocabulary
from tercet.lm.serving.writer import Writer

_GREEDY_BELOW = (
    1e-4  # temperatures at which logits / temperature could overflow, and all but the best have probability 0
)


@dataclass
class Row:
    """One choice of an Ask while it is sampled."""

    ask: Ask
    choice: int
    prompt: Sequence[int]
    max_tokens: int
    temperature: float
    generator: torch.Generator
    writer: Writer
    end_ids: Collection[int]
    deliver: Deliver
    cancelled: list[bool]  # shared by the choices of an Ask; not empty: the client has gone
    is_done: bool = False
    untold: list[Token] = field(default_factory=list)  # tokens whose text is held back
    num_untold: int = 0

    def take(self, token: int, described: Token | None) -> None:
        """Add a token and tell the client."""
        if self.cancelled:
            self.is_done = True
            return
        self.num_untold += 1
        self.untold += [described] if described else []
        text = self.writer.add(token)
        ended = token in self.end_ids or self.writer.stopped
        self.is_done = ended or len(self.writer.ids) == self.max_tokens
        text += self.writer.end() if self.is_done else ""
        if text or self.is_done:
            finish = "" if not self.is_done else "stop" if ended else "length"
            self.deliver(Piece(self.choice, text, self.num_untold, tuple(self.untold), finish))
            self.untold, self.num_untold = [], 0

    def fail(self, error: Exception) -> None:
        """Tell the client once, and end all choices of its Ask."""
        if not self.cancelled:
            self.deliver(error)
            self.cancelled.append(True)


class Batch:
    """Rows and the state of the model that belongs to them."""

    def __init__(self, state: Decoder | Stepper, rows: Sequence[Row], vocabulary: Vocabulary) -> None:
        self.state, self.rows, self._vocabulary = state, list(rows), vocabulary
        self._logits = state.logits

    def join(self, other: "Batch") -> bool:
        """Take the rows of another batch of the same model; return False if the model's cache does not allow it."""
        # both are of one kind, because they are states of one model
        if not self.state.join(other.state):  # pyright: ignore[reportArgumentType]
            return False
        self.rows += other.rows
        self._logits = torch.cat([self._logits, other._logits])
        return True

    def step(self) -> None:
        """Sample one token for each row, tell the clients, and drop the rows that are done."""
        tokens = self._draw()
        live = torch.tensor([number for number, row in enumerate(self.rows) if not row.is_done], dtype=torch.long)
        if len(live) < len(self.rows) and len(live):
            self.state.keep(live.to(tokens.device))
        self.rows = [self.rows[number] for number in live.tolist()]
        if self.rows:
            self._logits = self.state(tokens[live.to(tokens.device)])

    def _draw(self) -> Int[Tensor, " b"]:
        logits, rows = self._logits, self.rows
        device = logits.device
        uniforms = torch.cat([torch.rand(1, generator=row.generator) for row in rows]).to(device)
        temperatures = torch.tensor([row.temperature for row in rows], device=device)
        greedy = temperatures < _GREEDY_BELOW
        shaped = logits / temperatures.masked_fill(greedy, 1.0)[:, None]
        top_p = torch.tensor([row.ask.top_p for row in rows], device=device)
        if (top_p < 1).any():
            shaped = nucleus(shaped, top_p)
        # a row that cannot be sampled fails alone
        can_sample = shaped.amax(-1).isfinite()
        for row, can in zip(rows, can_sample.tolist(), strict=True):
            if not can:
                row.fail(FailedError(f"{NO_ACTION}: the model's weights are damaged, or training has diverged"))
        drawn = sample(shaped.masked_fill(~can_sample[:, None], 0.0), uniforms, temperature=1.0, check=False).actions
        tokens = torch.where(greedy, logits.argmax(-1), drawn)
        for row, token, described in zip(rows, tokens.tolist(), self._described(logits, tokens), strict=True):
            row.take(token, described)
        return tokens

    def _described(self, logits: Float[Tensor, "b v"], tokens: Int[Tensor, " b"]) -> list[Token | None]:
        """Return the tokens with their log-probabilities, for the rows whose clients asked for them."""
        described: list[Token | None] = [None] * len(self.rows)
        for number, row in enumerate(self.rows):
            if row.ask.num_likely is not None:
                logprobs = logits[number].float().log_softmax(-1)
                likely = logprobs.topk(min(row.ask.num_likely, len(logprobs)))
                tops = zip(likely.indices.tolist(), likely.values.tolist(), strict=True)
                named = tuple(Token(self._vocabulary.text(token), logprob) for token, logprob in tops)
                token = int(tokens[number])
                described[number] = Token(self._vocabulary.text(token), float(logprobs[token]), named)
        return described
