"""Settings of the libraries underneath, for as long as a function runs."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def torch_threads(number: int) -> Iterator[None]:
    """Let torch compute with so many CPU threads; 0 leaves the choice to torch."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def calm() -> Iterator[None]:
    """Keep transformers and the libraries around it from printing warnings and bars about loading."""
    with warnings.catch_warnings():
        from tercet.lm.quiet import hush

        hush()
        yield
