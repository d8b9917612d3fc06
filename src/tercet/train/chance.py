"""Random numbers from the seed and names only, so that a resumed run draws the same as an uninterrupted one."""

import hashlib
import json
import random
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def integer(seed: int, *names: str | int) -> int:
    """Return a number below 2^63 that depends on the arguments only; different names give unrelated numbers."""
    digest = hashlib.sha256(json.dumps([seed, *names]).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def round_seed(seed: int, number: int) -> int:
    """Return the seed of a round; that of round 0 is the run's own."""
    return integer(seed, "round", number) if number else seed


def generator(seed: int, *names: str | int) -> torch.Generator:
    """Return a new CPU generator; the same arguments give the same draws."""
    return torch.Generator().manual_seed(integer(seed, *names))


def seed_everything(seed: int, *names: str | int) -> None:
    """Set the global random state, for code that takes no generator: new weights and dropout."""
    value = integer(seed, *names)
    random.seed(value)
    torch.manual_seed(value)


@contextmanager
def undisturbed() -> Iterator[None]:
    """Restore the global random state of the CPU on exit."""
    python = random.getstate()
    with torch.random.fork_rng(devices=[]):
        try:
            yield
        finally:
            random.setstate(python)
