"""fp32 for every narrower type."""

import pytest
import torch

from tercet.core.precision import full_precision


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (torch.bfloat16, torch.float32),
        (torch.float16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_narrow_types_become_fp32_and_fp64_stays(given: torch.dtype, expected: torch.dtype) -> None:
    result = full_precision(torch.tensor([1.5, -2.0], dtype=given))
    assert result.dtype == expected
    assert result.tolist() == [1.5, -2.0]
