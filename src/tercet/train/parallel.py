"""Divide the work of the networks among several processes, called ranks (torch.distributed).

Every rank holds all results: responses, scores, values, advantages, metrics. They are small. What costs time, forward
and backward passes, is divided: each rank takes its own rows of every batch, and the results are combined on all of
them. So all ranks take every decision, such as an early stop, on the same numbers. A single process does all rows in
their order, and no function here costs it anything.
"""

import math
import traceback
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import torch
import torch.distributed as dist
from jaxtyping import Int, Shaped
from torch import Tensor, nn
from torch.distributed import Store  # pyright: ignore[reportPrivateImportUsage]  # public by torch's documentation

from tercet.errors import FailedError, first_line
from tercet.runs.ranks import Ranks, as_ranks, num_ranks, rank, shards
from tercet.runs.stop import is_asked
from tercet.train.sharding import is_divided, own_part

T = TypeVar("T")
R = TypeVar("R")


class LostRankError(FailedError):
    """Another process has ended, by an error of its own or killed, so that nothing can be exchanged with it."""


_OF_TORCH = Path(dist.__file__).parent
_BUCKET = 16 * 2**20  # elements of gradients that are summed in one call: more need more memory, not less time
_DRIFT = 1e-6  # relative; on equal machines the weights are equal to the bit
# a function of the user, or the report, may keep rank 0 busy for hours; a process that ends is noticed at once
_PATIENCE = timedelta(days=7)


@contextmanager
def connected(store: Store, number: int, total: int, *, gpu: int | None = None, shard: bool = False) -> Iterator[None]:
    """Make this process rank `number` of `total`, which meet in `store`, until the end of the `with`.

    `gpu` is the number of its card, if the networks are on cards. With `shard`, their weights are divided too.
    """
    backend = "gloo"
    if gpu is not None:
        torch.cuda.set_device(gpu)
        backend = "cpu:gloo,cuda:nccl"
    dist.init_process_group(backend, store=store, rank=number, world_size=total, timeout=_PATIENCE)
    try:
        with as_ranks(Ranks(number, total, _broadcast, shard)):
            with _passes():
                yield
            wait()  # rank 0 may end last: it holds the store in which the others meet
    finally:
        dist.destroy_process_group()


def own_rows(costs: Iterable[int | float], together: Sequence[Hashable] | None = None) -> Int[Tensor, " n"]:
    """Return the rows that this rank computes, in their order, so that the costs of all ranks are about equal.

    Rows with the same entry in `together` stay on one rank. All ranks must give the same arguments.
    """
    costs = list(costs)
    if num_ranks() == 1:
        return torch.arange(len(costs))
    return torch.tensor(_rows_of_ranks(costs, together)[rank()], dtype=torch.long)


def _rows_of_ranks(costs: Sequence[int | float], together: Sequence[Hashable] | None = None) -> list[list[int]]:
    groups: dict[Hashable, list[int]] = {}
    for row in range(len(costs)):
        groups.setdefault(together[row] if together else row, []).append(row)
    of_rank: list[list[int]] = [[] for _ in range(num_ranks())]
    load = [0.0] * num_ranks()
    # the largest first, each to the rank with the least work so far
    for group in sorted(groups.values(), key=lambda rows: -sum(costs[row] for row in rows)):
        least = load.index(min(load))
        of_rank[least] += group
        load[least] += sum(costs[row] for row in group)
    return [sorted(rows) for rows in of_rank]


def own_batches(costs: Iterable[int | float], size: int) -> list[Int[Tensor, " n"]]:
    """Return the rows that this rank computes (see `own_rows`) in batches of at most `size`; a rank may have none.

    If weights are divided among the ranks, all ranks get equally many batches, of which some may be empty.
    """
    costs = list(costs)
    own = [rows for rows in own_rows(costs).split(size) if len(rows)]
    if not shards():
        return own
    most = max(math.ceil(len(rows) / size) for rows in _rows_of_ranks(costs))
    return own + [torch.zeros(0, dtype=torch.long)] * (most - len(own))


def even(batches: Sequence[T], empty: T) -> list[T]:
    """Return this rank's batches; if weights are divided, with empty ones so that all ranks have equally many."""
    most = max(_gathered(len(batches))) if shards() else 0
    return [*batches, *[empty] * (most - len(batches))]


def own(items: Sequence[T], cost: Callable[[T], float], together: Callable[[T], Hashable] | None = None) -> list[T]:
    """Return the items that this rank computes (see `own_rows`)."""
    if num_ranks() == 1:
        return list(items)
    rows = own_rows(map(cost, items), list(map(together, items)) if together else None)
    return [items[row] for row in rows.tolist()]


def own_share(rows: Sequence[int]) -> list[int]:
    """Return those of `rows` that this rank computes, if they all cost the same."""
    return list(rows[rank() :: num_ranks()]) if num_ranks() > 1 else list(rows)


def combined(part: Shaped[Tensor, "..."]) -> Shaped[Tensor, "..."]:
    """Combine tensors that have the rows of one rank each, and zeros elsewhere, into one with all rows."""
    if num_ranks() == 1:
        return part
    whole = part.to(torch.uint8) if part.dtype == torch.bool else part.clone()
    _add_up(whole)  # adding zeros changes no bit
    return whole.to(part.dtype)


def dealt(items: Sequence[T], work: Callable[[T], R]) -> list[R]:
    """Return the results of `work` for all items, in their order; each rank does every n-th item."""
    if num_ranks() == 1:
        return [work(item) for item in items]
    results = _gathered([work(item) for item in items[rank() :: num_ranks()]])
    return [results[number % num_ranks()][number // num_ranks()] for number in range(len(items))]


def summed(sums: Mapping[str, int | float]) -> dict[str, float]:
    """Add up the numbers of all ranks; a rank without rows may lack some names."""
    if num_ranks() == 1:
        return {name: float(value) for name, value in sums.items()}
    of_ranks = _gathered(dict(sums))
    names = dict.fromkeys(name for numbers in of_ranks for name in numbers)
    return {name: sum((float(numbers.get(name, 0.0)) for numbers in of_ranks), 0.0) for name in names}


def stop_is_asked() -> bool:
    """Return True, on every rank, if one of them has been asked to stop."""
    return bool(summed({"asked": is_asked()})["asked"])


@torch.no_grad()
def check_alike(modules: Mapping[str, nn.Module]) -> None:
    """Raise FailedError if what the modules have learned differs among the ranks by more than rounding."""
    if num_ranks() == 1:
        return
    learned = (
        parameter
        for module in modules.values()
        for parameter in module.parameters()
        if parameter.requires_grad and not is_divided(parameter)  # of those, no two ranks hold the same
    )
    size = sum(float(parameter.double().abs().sum()) for parameter in learned)
    sizes = _gathered(size)
    if not max(sizes) - min(sizes) <= _DRIFT * max(sizes):
        raise FailedError(
            f"the processes have trained different weights (sums of absolute values from {min(sizes):.9g} to "
            f"{max(sizes):.9g}): their data, models or versions of the packages differ"
        )


@torch.no_grad()
def norm_of_all(gradients: Sequence[Tensor]) -> Tensor:
    """Return the norm of all gradients together; of divided ones, with the parts of all ranks."""
    norm = torch.nn.utils.get_total_norm([own_part(g) for g in gradients if not is_divided(g)])
    divided = [own_part(g) for g in gradients if is_divided(g)]
    if not divided:
        return norm
    total = torch.nn.utils.get_total_norm(divided).square()
    _add_up(total)
    return (norm.to(total.device).square() + total).sqrt()


def wait() -> None:
    """Wait until every rank has come here."""
    if num_ranks() > 1:
        _add_up(torch.zeros(1))


@torch.no_grad()
def sum_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Add up the gradients of all ranks; a rank without rows may have none.

    Those of divided parameters have been added up in the backward pass.
    """
    if num_ranks() == 1:
        return
    learning = [parameter for parameter in parameters if parameter.requires_grad and not is_divided(parameter)]
    on_some = torch.tensor([parameter.grad is not None for parameter in learning], dtype=torch.uint8)
    _add_up(on_some)
    gradients: list[Tensor] = []
    for parameter, is_on_some in zip(learning, on_some.tolist(), strict=True):
        if is_on_some and parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        if parameter.grad is not None:
            gradients.append(parameter.grad)
    for bucket in _buckets(gradients):
        flat = torch.cat([gradient.flatten() for gradient in bucket])
        _add_up(flat)
        for gradient, total in zip(bucket, flat.split([gradient.numel() for gradient in bucket]), strict=True):
            gradient.copy_(total.view_as(gradient))


def _buckets(gradients: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Collect gradients of one type and device into buckets of at most `_BUCKET` elements, or of one tensor."""
    bucket: list[Tensor] = []
    size = 0
    for gradient in gradients:
        fits = bucket and size + gradient.numel() <= _BUCKET
        if bucket and not (fits and (gradient.dtype, gradient.device) == (bucket[0].dtype, bucket[0].device)):
            yield bucket
            bucket, size = [], 0
        bucket.append(gradient)
        size += gradient.numel()
    if bucket:
        yield bucket


def _gathered(value: T) -> list[T]:
    """Return the values of all ranks."""
    values: list[T] = [value] * num_ranks()
    with _exchange():
        dist.all_gather_object(values, value)
    return values


def _add_up(values: Tensor) -> None:
    """Replace the values by their sums over all ranks, which are the same bits on all."""
    with _exchange():
        dist.all_reduce(values)


@contextmanager
def _exchange() -> Iterator[None]:
    """Turn the error of an exchange into a LostRankError."""
    try:
        yield
    except RuntimeError as error:
        raise _lost(error) from error


@contextmanager
def _passes() -> Iterator[None]:
    """Turn the error of an exchange that torch makes, as passes of divided weights do, into a LostRankError."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        innermost = traceback.extract_tb(error.__traceback__)[-3:]
        if any(Path(frame.filename).is_relative_to(_OF_TORCH) for frame in innermost):
            raise _lost(error) from error
        raise


def _lost(error: RuntimeError) -> LostRankError:
    return LostRankError(f"another process of this run has ended ({first_line(error)})")


def _broadcast(value: object) -> object:
    values = [value]
    with _exchange():
        dist.broadcast_object_list(values, src=0)
    return values[0] if rank() else value  # rank 0 keeps its own: an error with its traceback
