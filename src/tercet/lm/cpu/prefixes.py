"""Store each shared prefix of the rows of a batch once, such as a prompt under several responses.

A causal model's state of a token depends only on the tokens up to it, so equal prefixes have equal states (with dropout
they share one mask). The distinct tokens form one line: each row appends the tokens that no earlier row has. A row is
then a few pieces of the line.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

MIN_SHARED = 0.1  # share of tokens in shared prefixes below which splitting rows costs more than it saves


@dataclass(frozen=True)
class Row:
    """A row of the batch: the numbers of its pieces. Its last `num_new` tokens are those that it appends to the line.

    `mask[i, j]` is True if new token i attends to token j of the row; None if all tokens are new.
    """

    pieces: tuple[int, ...]
    num_new: int
    mask: Bool[Tensor, "new length"] | None


@dataclass(frozen=True)
class Prefixes:
    """The line of distinct tokens: `tokens` with their `positions`, cut into pieces of `sizes`, and the rows in it.

    `index` is the index in the line of each token of the batch, row after row without padding.
    """

    tokens: Int[Tensor, " n"]
    positions: Int[Tensor, " n"]
    index: Int[Tensor, " m"]
    sizes: tuple[int, ...]
    rows: tuple[Row, ...]

    @classmethod
    def of(cls, sequences: Sequence[Sequence[int]]) -> "Prefixes":
        """Build the line of these rows, none of which is empty. If they share little, every row is stored whole."""
        line, paths = _shared(sequences)
        if len(line) > (1 - MIN_SHARED) * sum(map(len, sequences)):
            line, paths = _unshared(sequences)
        cuts = sorted({cut for path in paths for run in path for cut in run})
        piece = {cut: number for number, cut in enumerate(cuts)}
        rows, index, length_before = [], list[int](), 0
        for path in paths:
            num_new = max(0, path[-1][1] - length_before)
            length_before += num_new
            length = sum(end - start for start, end in path)
            is_new = num_new == length
            mask = None if is_new else torch.ones(num_new, length, dtype=torch.bool).tril(length - num_new)
            pieces = tuple(number for start, end in path for number in range(piece[start], piece[end]))
            rows.append(Row(pieces, num_new, mask))
            index += [at for start, end in path for at in range(start, end)]
        tokens, positions = torch.tensor(line).unbind(1)
        sizes = tuple(end - start for start, end in pairwise(cuts))
        return cls(tokens, positions, torch.tensor(index), sizes, tuple(rows))

    def split(self, values: Float[Tensor, "*heads n d"]) -> list[Float[Tensor, "*heads _ d"]]:
        """Split values along the line into one tensor per row."""
        parts = values.split(list(self.sizes), dim=-2)
        pieces = [[parts[i] for i in row.pieces] for row in self.rows]
        return [torch.cat(those, dim=-2) if len(those) > 1 else those[0] for those in pieces]

    def attend(
        self,
        query: Float[Tensor, "1 heads n d"],
        key: Float[Tensor, "1 kv_heads n d"],
        value: Float[Tensor, "1 kv_heads n d"],
        *,
        scale: float | None = None,
        dropout: float = 0.0,
    ) -> Float[Tensor, "1 heads n d"]:
        """Compute causal attention of each token of the line within its row; query heads may share key heads."""
        is_grouped = key.shape[1] != query.shape[1]
        queries = query.split([row.num_new for row in self.rows], dim=-2)
        common = partial(scaled_dot_product_attention, dropout_p=dropout, scale=scale, enable_gqa=is_grouped)
        outputs = [
            common(q, k, v, attn_mask=row.mask, is_causal=row.mask is None)
            for row, q, k, v in zip(self.rows, queries, self.split(key), self.split(value), strict=True)
            if row.num_new
        ]
        return torch.cat(outputs, dim=-2)


Line = list[tuple[int, int]]  # token and position
Path = list[tuple[int, int]]  # the intervals (start, end) of the line that make up a row


def _shared(sequences: Sequence[Sequence[int]]) -> tuple[Line, list[Path]]:
    line: Line = []
    known: dict[tuple[int, int], int] = {}  # (index of the token before, token) -> index
    paths: list[Path] = []
    for sequence in sequences:
        path, before = Path(), -1
        for position, token in enumerate(sequence):
            index = known.setdefault((before, token), len(line))
            if index == len(line):
                line.append((token, position))
            if path and index == path[-1][1] and index - 1 == before:
                path[-1] = (path[-1][0], index + 1)
            else:
                path.append((index, index + 1))
            before = index
        paths.append(path)
    return line, paths


def _unshared(sequences: Sequence[Sequence[int]]) -> tuple[Line, list[Path]]:
    line = [(token, position) for sequence in sequences for position, token in enumerate(sequence)]
    ends = torch.tensor([0, *map(len, sequences)]).cumsum(0).tolist()
    return line, [[(start, end)] for start, end in pairwise(ends)]
