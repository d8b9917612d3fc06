"""Exploration noise that is correlated from step to step."""

import torch
from jaxtyping import Float
from torch import Tensor


def coloured(white: Float[Tensor, "t *shape"], *, exponent: float) -> Float[Tensor, "t *shape"]:
    """Filter standard normal noise so that its power falls with frequency as 1 / f ** exponent (Timmer & Koenig 1995).

    Each number stays standard normal, since the filter has the norm 1. With 0 the noise stays white; with 1 it is pink
    (Eberhard et al. 2023). Frequency 0 has the power of the lowest one above it.
    """
    if exponent == 0 or len(white) < 2:
        return white
    num = len(white)
    frequencies = torch.fft.rfftfreq(num, dtype=torch.float64)
    frequencies[0] = frequencies[1]
    gains = frequencies ** (-exponent / 2)
    # a filter in the frequency domain is a circular convolution: by Parseval, its norm is that of the gains
    counts = torch.full_like(gains, 2.0)
    counts[0] = 1.0
    if num % 2 == 0:
        counts[-1] = 1.0
    gains = gains / ((counts * gains.square()).sum() / num).sqrt()
    spectrum = torch.fft.rfft(white.double(), dim=0) * gains.view(-1, *[1] * (white.ndim - 1))
    return torch.fft.irfft(spectrum, n=num, dim=0).to(white.dtype)
