"""Chance as a function of the seed and a name, so that a resumed run draws what an uninterrupted one draws."""

import hashlib
import json
import random
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def integer(seed: int, *names: str | int) -> int:
    """A number below 2^63 that follows from the arguments alone; other names give an unrelated one."""
    digest = hashlib.sha256(json.dumps([seed, *names]).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator(seed: int, *names: str | int) -> torch.Generator:
    """A fresh CPU generator for what `names` say; the same arguments give the same draws."""
    return torch.Generator().manual_seed(integer(seed, *names))


def seed_everything(seed: int, *names: str | int) -> None:
    """Set the global random state, for what takes no generator: fresh weights and dropout."""
    value = integer(seed, *names)
    random.seed(value)
    torch.manual_seed(value)


@contextmanager
def undisturbed() -> Iterator[None]:
    """Within it the CPU's global random state may be used; afterwards it is as it was."""
    python = random.getstate()
    with torch.random.fork_rng(devices=[]):
        try:
            yield
        finally:
            random.setstate(python)
