"""fp32 for every narrower type, and fp64 where a device has it."""

import pytest
import torch

from tercet.core.precision import full_precision, where_fp64_is, widest


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


def test_fp64_is_computed_on_the_cpu_if_a_device_has_none() -> None:
    here = torch.ones(2)
    assert where_fp64_is(here) is here
    assert widest(torch.device("cpu")) == widest(torch.device("cuda")) == torch.float64
    assert widest(torch.device("mps")) == torch.float32
