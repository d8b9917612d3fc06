"""Several processes that run one command together, called ranks as in torch.distributed.

All ranks run the same steps with the same data and hold the same results; `train/parallel.py` divides the work of the
networks among them. Rank 0 alone writes to the run folder, prints and calls functions of the user. This file has no
torch in it: `api/processes.py` connects the ranks.
"""

import functools
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import ParamSpec, TypeVar

from tercet.errors import FailedError, InputError, WaitingError, first_line

P = ParamSpec("P")
T = TypeVar("T")


def _not_connected(value: object) -> object:
    raise AssertionError("the ranks are not connected yet")


@dataclass(frozen=True)
class Ranks:
    """The number of this process, from 0, the number of all, and a function that sends a value of rank 0 to all.

    With `shard`, the weights of the networks are divided among them too (`train/sharding.py`).
    """

    number: int
    total: int
    broadcast: Callable[[object], object] = _not_connected
    shard: bool = False


ONE = Ranks(0, 1)  # one process alone
_current = ONE
MOST_AUTOMATIC = 2
_SHOWN_HERE = "shown_here"  # attribute of an error
_VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def rank() -> int:
    """Return the number of this process; 0 if it is the only one."""
    return _current.number


def num_ranks() -> int:
    """Return the number of processes that divide the work."""
    return _current.total


def follows() -> bool:
    """Return True on every rank but rank 0."""
    return _current.number > 0


def automatic(on_gpu: bool) -> int:
    """Return the number of processes for `processes=0`: one for each core, at most two, and one on a GPU."""
    return 1 if on_gpu else min(num_cores(), MOST_AUTOMATIC)


def num_cores() -> int:
    """Return the number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def shards() -> bool:
    """Return True if the weights of the networks are divided among the ranks."""
    return _current.shard and _current.total > 1


def launched() -> Ranks | None:
    """Return the rank that torchrun gave this process by environment variables; None without them."""
    if not all(os.environ.get(name) for name in _VARIABLES):
        return None
    return Ranks(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]))


def is_launched_to_follow() -> bool:
    """Return True if torchrun has started this process, and not as rank 0, which reads, writes and prints for all."""
    ranks = launched()
    return ranks is not None and ranks.number > 0


@contextmanager
def as_ranks(ranks: Ranks) -> Iterator[None]:
    """Make this process one of `ranks` until the end of the `with`."""
    global _current
    before, _current = _current, ranks
    try:
        yield
    finally:
        _current = before


def alone() -> AbstractContextManager[None]:
    """Let this process do its work undivided until the end of the `with`, as if it were the only one."""
    return as_ranks(replace(_current, total=1))


def share(make: Callable[[], T]) -> T:
    """Let rank 0 call `make` alone, and return its value, or raise its error, on every rank."""
    ranks = _current
    if ranks.total == 1:
        return make()
    outcome = ranks.broadcast(_outcome(make) if ranks.number == 0 else None)
    assert isinstance(outcome, _Outcome)
    if outcome.error is not None:
        raise outcome.error
    return outcome.value  # pyright: ignore[reportReturnType]  # what `make` has returned on rank 0


@dataclass
class _Outcome:
    """What a function has returned, or raised; an error is sent to other processes without its traceback."""

    value: object = None
    error: Exception | None = None

    def __getstate__(self) -> dict[str, object]:
        return {"value": self.value, "error": self.error and sendable(self.error)}


def _outcome(make: Callable[[], object]) -> _Outcome:
    try:
        with alone():
            return _Outcome(value=make())
    except Exception as error:
        return _Outcome(error=error)


def first_only(write: Callable[P, object]) -> Callable[P, None]:
    """Decorate a function that writes: ranks other than 0 skip it."""

    @functools.wraps(write)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> None:
        if not follows():
            write(*args, **kwargs)

    return wrapper


def show_here(error: BaseException, is_here: bool) -> None:
    """Decide whether this process shows an error that ends all ranks."""
    setattr(error, _SHOWN_HERE, is_here)


def is_shown_here(error: BaseException) -> bool:
    """Return True if this process shows an error; errors before the ranks are connected are shown by rank 0."""
    return getattr(error, _SHOWN_HERE, not is_launched_to_follow())


def sendable(error: BaseException) -> Exception:
    """Return an error that another process can read: one of ours as it is, others by their first line."""
    for kind in (InputError, FailedError, WaitingError):
        if isinstance(error, kind):
            return kind(str(error))
    return FailedError(f"{type(error).__name__}: {first_line(error)}")
