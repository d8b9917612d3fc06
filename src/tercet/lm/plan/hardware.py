"""Peak rates of a machine: measured here in a second or two, or from the data sheet of a GPU."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

_MATRIX = 1024  # tokens; with 2048 x 2048, a product of the size that training and scoring have
_WIDE = 2048
_BUFFER = 64 * 2**20  # numbers: far more than a cache holds
_MOST_SECONDS = 0.6

Clock = Callable[[], float]  # returns seconds: wall time, or CPU time of this process


@dataclass(frozen=True)
class Limits:
    """The best rates of a machine: operations on numbers, and bytes read from its memory."""

    flops_per_s: float
    bytes_per_s: float


@dataclass(frozen=True)
class Card:
    """The data sheet of a GPU: dense products of 16-bit and of fp32 numbers, both with fp32 sums, and its memory."""

    half_flops_per_s: float
    fp32_flops_per_s: float
    bytes_per_s: float
    memory_gib: int
    has_bf16: bool = True  # else its 16-bit numbers are fp16 alone

    def expected(self, precision: str) -> Limits:
        """Return the rates that a run is expected to reach: assumed, not measured."""
        flops = self.fp32_flops_per_s if precision == "fp32" else self.half_flops_per_s
        return Limits(flops * FLOPS_SHARE, self.bytes_per_s * BYTES_SHARE)


# NVIDIA's data sheets of the GeForce RTX 3090 and 4090, A100 80GB SXM, H100 SXM, H200 SXM, T4 and V100 SXM2
CARDS = {
    "3090": Card(71e12, 35.6e12, 936e9, 24),
    "4090": Card(165e12, 82.6e12, 1008e9, 24),
    "a100": Card(312e12, 19.5e12, 2039e9, 80),
    "h100": Card(989e12, 67e12, 3350e9, 80),
    "h200": Card(989e12, 67e12, 4800e9, 141),
    "t4": Card(65e12, 8.1e12, 320e9, 16, has_bf16=False),
    "v100": Card(125e12, 15.7e12, 900e9, 32, has_bf16=False),
}
FLOPS_SHARE = 0.4  # assumed fraction of a card's peak arithmetic
BYTES_SHARE = 0.6  # assumed fraction of its memory bandwidth


def measured_limits(
    device: torch.device, dtype: torch.dtype = torch.float32, *, clock: Clock = time.perf_counter
) -> Limits:
    """Measure the best of several matrix products and of several passes over a large buffer on this machine."""
    factor = 1 if device.type == "cpu" else 4  # less work would not bring a GPU to full speed
    rows, wide = factor * _MATRIX, factor * _WIDE
    left = torch.randn(rows, wide, device=device).to(dtype)
    right = torch.randn(wide, wide, device=device).to(dtype)
    product = best_seconds(lambda: torch.nn.functional.linear(left, right), device, clock=clock)
    buffer = torch.ones(factor**2 * _BUFFER, device=device)
    reading = best_seconds(lambda: buffer.sum(), device, clock=clock)
    return Limits(2 * rows * wide * wide / product, 4 * buffer.numel() / reading)


def best_seconds(
    work: Callable[[], object],
    device: torch.device,
    *,
    most_seconds: float = _MOST_SECONDS,
    clock: Clock = time.perf_counter,
) -> float:
    """Return the time of the fastest of at least two runs within `most_seconds`, after a warm-up run."""
    work()
    wait(device)
    best, first, runs = float("inf"), time.perf_counter(), 0
    while runs < 2 or time.perf_counter() - first < most_seconds:
        start = clock()
        work()
        wait(device)
        best, runs = min(best, clock() - start), runs + 1
    return best


def wait(device: torch.device) -> None:
    """Wait until a GPU has finished its work; a CPU always has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
