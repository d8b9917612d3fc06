"""The rows of a batch with every beginning that several share held once: a prompt under its answers, a system prompt
under all prompts.

A causal model's state of a token follows from the tokens up to it alone, so equal beginnings have equal states (but for
dropout, whose mask they then share). The
distinct tokens are laid out in one long line, row after row what each adds to the rows before it; a row is a few pieces
of that line.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

PAYS_FROM = 0.1  # of the tokens shared: below it, rows in pieces cost more than they spare


@dataclass(frozen=True)
class Row:
    """A row of the batch by the numbers of its pieces; its last `own` tokens are those that it adds to the line.

    `seen[i, j]` says that own token i looks at token j of the row; None where all tokens are its own.
    """

    pieces: tuple[int, ...]
    own: int
    seen: Bool[Tensor, "own length"] | None


@dataclass(frozen=True)
class Prefixes:
    """The line of distinct tokens: `tokens` with their `positions`, cut into pieces of `sizes`; how rows lie in it.

    `place` says where in the line each token of the batch stands, row after row without padding.
    """

    tokens: Int[Tensor, " n"]
    positions: Int[Tensor, " n"]
    place: Int[Tensor, " m"]
    sizes: tuple[int, ...]
    rows: tuple[Row, ...]

    @classmethod
    def of(cls, sequences: Sequence[Sequence[int]]) -> "Prefixes":
        """The line of these rows, of which none is empty; where they share little, each stands in it as it is."""
        line, paths = _shared(sequences)
        if len(line) > (1 - PAYS_FROM) * sum(map(len, sequences)):
            line, paths = _apart(sequences)
        cuts = sorted({cut for path in paths for run in path for cut in run})
        number = {cut: index for index, cut in enumerate(cuts)}
        rows, place, added = [], list[int](), 0
        for path in paths:
            own = max(0, path[-1][1] - added)
            added += own
            length = sum(end - start for start, end in path)
            seen = None if own == length else torch.ones(own, length, dtype=torch.bool).tril(length - own)
            rows.append(Row(tuple(i for start, end in path for i in range(number[start], number[end])), own, seen))
            place += [at for start, end in path for at in range(start, end)]
        tokens, positions = torch.tensor(line).unbind(1)
        sizes = tuple(end - start for start, end in pairwise(cuts))
        return cls(tokens, positions, torch.tensor(place), sizes, tuple(rows))

    def split(self, values: Float[Tensor, "*heads n d"]) -> list[Float[Tensor, "*heads _ d"]]:
        """What lies along the line, row by row and whole."""
        parts = values.split(list(self.sizes), dim=-2)
        pieces = [[parts[i] for i in row.pieces] for row in self.rows]
        return [torch.cat(those, dim=-2) if len(those) > 1 else those[0] for those in pieces]

    def attended(
        self,
        query: Float[Tensor, "1 heads n d"],
        key: Float[Tensor, "1 kv_heads n d"],
        value: Float[Tensor, "1 kv_heads n d"],
        *,
        scale: float | None = None,
        dropout: float = 0.0,
    ) -> Float[Tensor, "1 heads n d"]:
        """What each token of the line sees: its own row up to itself; several query heads may share a key's."""
        is_grouped = key.shape[1] != query.shape[1]
        queries = query.split([row.own for row in self.rows], dim=-2)
        common = partial(scaled_dot_product_attention, dropout_p=dropout, scale=scale, enable_gqa=is_grouped)
        found = [
            common(q, k, v, attn_mask=row.seen, is_causal=row.seen is None)
            for row, q, k, v in zip(self.rows, queries, self.split(key), self.split(value), strict=True)
            if row.own
        ]
        return torch.cat(found, dim=-2)


Line = list[tuple[int, int]]  # token and position
Path = list[tuple[int, int]]  # from where to where in the line a row lies, run by run


def _shared(sequences: Sequence[Sequence[int]]) -> tuple[Line, list[Path]]:
    line: Line = []
    known: dict[tuple[int, int], int] = {}  # (place of the token before, token) -> place
    paths: list[Path] = []
    for sequence in sequences:
        path, before = Path(), -1
        for position, token in enumerate(sequence):
            place = known.setdefault((before, token), len(line))
            if place == len(line):
                line.append((token, position))
            if path and place == path[-1][1] and place - 1 == before:
                path[-1] = (path[-1][0], place + 1)
            else:
                path.append((place, place + 1))
            before = place
        paths.append(path)
    return line, paths


def _apart(sequences: Sequence[Sequence[int]]) -> tuple[Line, list[Path]]:
    line = [(token, position) for sequence in sequences for position, token in enumerate(sequence)]
    ends = torch.tensor([0, *map(len, sequences)]).cumsum(0).tolist()
    return line, [[(start, end)] for start, end in pairwise(ends)]
