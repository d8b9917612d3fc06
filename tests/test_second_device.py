"""The second device refuses what a GPU refuses, and counts what a GPU waits for."""

import pytest
import torch
from tests.second_device import NAME, DeviceMismatch, NoFp64, SecondDevice


def test_a_tensor_of_the_cpu_beside_one_of_the_device_is_refused_and_reads_are_counted() -> None:
    with SecondDevice() as device:
        there = torch.ones(3, device=NAME)
        with pytest.raises(DeviceMismatch, match=r"add.Tensor: tensors on two devices: lazy\(3,\), cpu\(3,\)"):
            there + torch.ones(3)
        with pytest.raises(DeviceMismatch):
            torch.nn.Linear(3, 3)(there)
        assert (there + 1).device.type == NAME and device.waits == 0
        assert float(there.sum()) == 3 and there.tolist() == [1.0, 1.0, 1.0] and len(there[there > 0]) == 3
        assert device.waits == 3


def test_fp64_is_refused_on_a_device_without_it() -> None:
    with SecondDevice() as device:
        assert torch.ones(3, device=NAME).double().sum().item() == 3 and device.waits == 1
    with SecondDevice(without_fp64=True):
        there = torch.ones(3, device=NAME)
        with pytest.raises(NoFp64, match="gives fp64 on the device"):
            there.double()
        with pytest.raises(NoFp64):
            there.sum(dtype=torch.float64)
        with pytest.raises(NoFp64):
            torch.ones(3, dtype=torch.float64).to(NAME)
        assert there.cpu().double().sum() == 3
