"""Temporary settings of libraries, during a function call."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def torch_threads(number: int) -> Iterator[None]:
    """Set the number of CPU threads of torch; 0 leaves the choice to torch."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Suppress warnings and progress bars of transformers and related libraries."""
    with warnings.catch_warnings():
        from tercet.lm.quiet import hush

        hush()
        yield
