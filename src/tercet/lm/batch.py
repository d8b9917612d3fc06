"""Right-padded batches of prompts with responses.

Every sequence starts at column 0. A causal model therefore never reads padding before a real token, and position ids
are the column numbers in every architecture. Masks come from lengths, never from ids.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

_MIN_SHARE = 0.85  # shortest length in a group, as a share of the longest
_FEW_TOKENS = 128


@dataclass(frozen=True)
class TokenBatch:
    """`ids` has prompt, response, then padding; `response_mask[b, t]` is True if response token t exists."""

    ids: Int[Tensor, "b length"]
    prompt_lengths: Int[Tensor, " b"]
    response_mask: Bool[Tensor, "b t"]

    @property
    def lengths(self) -> Int[Tensor, " b"]:
        """Number of tokens of prompt and response."""
        return self.prompt_lengths + self.response_mask.sum(1)

    @property
    def attention_mask(self) -> Int[Tensor, "b length"]:
        """1 for real tokens and 0 for padding, as in transformers."""
        columns = torch.arange(self.ids.shape[1], device=self.ids.device)
        return (columns[None] < self.lengths[:, None]).long()

    @property
    def sequences(self) -> list[list[int]]:
        """The ids of each row without padding."""
        return [ids[:length] for ids, length in zip(self.ids.tolist(), self.lengths.tolist(), strict=True)]

    @property
    def inputs(self) -> dict[str, Tensor]:
        """The batch as tensors, as in `Rollout.inputs`."""
        return {"ids": self.ids, "prompt_lengths": self.prompt_lengths, "response_mask": self.response_mask}

    @classmethod
    def of(cls, inputs: Mapping[str, Tensor]) -> "TokenBatch":
        """Make a batch from `inputs`, cut to its longest row."""
        batch = cls(inputs["ids"], inputs["prompt_lengths"], inputs["response_mask"])
        longest = int(batch.lengths.max()) if len(batch.ids) else 1
        return cls(batch.ids[:, :longest], batch.prompt_lengths, batch.response_mask)

    @classmethod
    def empty(cls, device: torch.device) -> "TokenBatch":
        """Return a batch without rows, for a rank that has fewer batches than others."""
        numbers, nothing = torch.zeros(0, dtype=torch.long, device=device), torch.zeros(0, 1, device=device)
        return cls(nothing.long(), numbers, nothing.bool())

    def rows(self, rows: Int[Tensor, " n"]) -> "TokenBatch":
        """Select rows and cut them to the longest one; the width of `response_mask` stays."""
        return TokenBatch.of({name: value[rows] for name, value in self.inputs.items()})

    @classmethod
    def joined(cls, parts: Sequence["TokenBatch"]) -> "TokenBatch":
        """Put the rows of several batches into one, padded to the widest."""
        return cls(
            _one_below_the_other([part.ids for part in parts]),
            torch.cat([part.prompt_lengths for part in parts]),
            _one_below_the_other([part.response_mask for part in parts]),
        )

    def to(self, device: torch.device) -> "TokenBatch":
        """Copy the batch to a device."""
        return TokenBatch(self.ids.to(device), self.prompt_lengths.to(device), self.response_mask.to(device))

    def actions(self) -> tuple[Int[Tensor, " n"], Int[Tensor, " n"], Int[Tensor, " n"]]:
        """Return row, response column and position in `ids` of every response token, flat and without padding.

        The token at `position` is predicted from the tokens up to `position - 1`.
        """
        rows, columns = self.response_mask.nonzero(as_tuple=True)
        return rows, columns, self.prompt_lengths[rows] + columns

    @property
    def deciding(self) -> Bool[Tensor, "b length"]:
        """True at positions whose next token is a response token."""
        rows, _, positions = self.actions()
        out = torch.zeros(self.ids.shape, dtype=torch.bool, device=self.ids.device)
        out[rows, positions - 1] = True
        return out

    @property
    def ends(self) -> Bool[Tensor, "b length"]:
        """True at the last real token of each row."""
        columns = torch.arange(self.ids.shape[1], device=self.ids.device)
        return columns[None] == (self.lengths - 1)[:, None]

    def at_actions(self, per_position: Float[Tensor, "b length"], *, shift: int) -> Float[Tensor, "b t"]:
        """Return `per_position` at each response token's position + `shift`, 0 at padding."""
        rows, columns, positions = self.actions()
        out = per_position.new_zeros(self.response_mask.shape)
        out[rows, columns] = per_position[rows, positions + shift]
        return out

    def last(self, per_position: Float[Tensor, "b length"]) -> Float[Tensor, " b"]:
        """Return `per_position` at the last real token of each row."""
        return per_position.gather(1, (self.lengths - 1)[:, None])[:, 0]

    def repeat_last(self, per_position: Float[Tensor, "b length"]) -> Float[Tensor, "b length"]:
        """Return `per_position` with padding replaced by the value at the row's last real token."""
        columns = torch.arange(self.ids.shape[1], device=self.ids.device)
        return per_position.gather(1, torch.minimum(columns[None], self.lengths[:, None] - 1))


def _one_below_the_other(parts: Sequence[Tensor]) -> Tensor:
    width = max(part.shape[1] for part in parts)
    return torch.cat([torch.nn.functional.pad(part, (0, width - part.shape[1])) for part in parts])


def pad(prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]], *, pad_id: int) -> TokenBatch:
    """Pad prompts with their responses to one batch; a response may be empty, a prompt may not."""
    if any(len(prompt) == 0 for prompt in prompts):
        raise ValueError("a prompt without tokens has no position to predict from; add a BOS token or text")
    length = max(len(p) + len(r) for p, r in zip(prompts, responses, strict=True))
    rows = [[*p, *r, *[pad_id] * (length - len(p) - len(r))] for p, r in zip(prompts, responses, strict=True)]
    response_lengths = torch.tensor([len(response) for response in responses])
    columns = torch.arange(int(response_lengths.max()))
    return TokenBatch(
        torch.tensor(rows), torch.tensor([len(p) for p in prompts]), columns[None] < response_lengths[:, None]
    )


def like_lengths(of_rows: Int[Tensor, " n"]) -> list[list[int]]:
    """Group rows of similar lengths, longest group first.

    A group of few tokens takes shorter rows too: padding then costs less than another small matrix product. On a GPU
    all rows are one group, since many small kernel launches would cost more.
    """
    if of_rows.device.type != "cpu":
        return [list(range(len(of_rows)))]
    lengths: list[int] = of_rows.tolist()
    groups: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        longest = lengths[groups[-1][0]] if groups else 0
        if groups and (lengths[row] >= _MIN_SHARE * longest or longest * len(groups[-1]) < _FEW_TOKENS):
            groups[-1].append(row)
        else:
            groups.append([row])
    return groups
