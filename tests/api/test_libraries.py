"""Temporary settings of libraries."""

import torch

from tercet.api.libraries import torch_threads


def test_the_threads_of_torch_are_restored() -> None:
    before = torch.get_num_threads()
    with torch_threads(before + 2):
        assert torch.get_num_threads() == before + 2
    assert torch.get_num_threads() == before
