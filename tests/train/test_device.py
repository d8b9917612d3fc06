"""A device that is not there is refused, and so is what a device cannot do."""

from types import SimpleNamespace

import pytest
import torch

from tercet.api.processes import num_processes, together
from tercet.config.lm import LmConfig
from tercet.errors import InputError
from tercet.train.device import device_of, multiplies_bf16


@pytest.mark.skipif(torch.backends.mps.is_available(), reason="this machine has a GPU of Apple")
def test_a_gpu_of_apple_that_is_not_there_is_refused() -> None:
    with pytest.raises(InputError, match="device: mps, but torch sees no GPU of Apple; set device=cpu"):
        device_of("mps")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"shard": True}, "set shard=false and processes=1"),
        ({"processes": 2}, "set shard=false and processes=1"),
        ({"ppo": {"sampler": "transformers"}}, "ppo.sampler=transformers needs a CPU or an NVIDIA GPU"),
    ],
)
def test_what_apples_gpus_cannot_do_is_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LmConfig.model_validate({"device": "mps", **settings})
    assert LmConfig.model_validate({"device": "mps", "precision": "fp16"}).scales_losses


def test_several_processes_on_a_gpu_of_apple_are_refused() -> None:
    assert num_processes(0, "mps") == 1
    with (
        pytest.raises(InputError, match="device=mps: 2 processes cannot exchange tensors"),
        together({}, 2, device="mps"),
    ):
        pass


def test_older_gpus_have_no_products_of_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    assert multiplies_bf16(torch.device("cpu"))
    for generation, known in ((7, False), (8, True)):  # Turing, Ampere
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
        properties = SimpleNamespace(major=generation)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device, found=properties: found)
        assert multiplies_bf16(torch.device("cuda")) is known
