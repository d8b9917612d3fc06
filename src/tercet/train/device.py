"""The device of a run's networks."""

import torch

from tercet.errors import InputError


def device_of(setting: str) -> torch.device:
    """Return the device that the config key `device` names. InputError if there is no such device."""
    if setting == "cuda" and not torch.cuda.is_available():
        raise InputError("device: cuda, but torch sees no GPU; set device=cpu, or install a CUDA build of torch")
    if setting == "mps" and not torch.backends.mps.is_available():
        raise InputError("device: mps, but torch sees no GPU of Apple; set device=cpu")
    return torch.device(setting if setting != "auto" else "cuda" if torch.cuda.is_available() else "cpu")


def multiplies_bf16(device: torch.device) -> bool:
    """Return True if the device multiplies bf16 numbers itself: NVIDIA's GPUs before Ampere (T4, V100) emulate it."""
    return device.type != "cuda" or torch.cuda.is_bf16_supported(including_emulation=False)
