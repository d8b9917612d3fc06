import pytest
import torch

from tercet.core.noise import coloured


def white(steps: int, num: int = 400) -> torch.Tensor:
    return torch.randn(steps, num, 2, generator=torch.Generator().manual_seed(0))


def test_exponent_0_keeps_every_number() -> None:
    assert torch.equal(coloured(white(7), exponent=0.0), white(7))


@pytest.mark.parametrize("exponent", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("steps", [30, 31])
def test_every_step_stays_standard_normal(exponent: float, steps: int) -> None:
    noise = coloured(white(steps, 4000), exponent=exponent)
    assert noise.shape == (steps, 4000, 2) and noise.dtype == torch.float32
    torch.testing.assert_close(noise.std((1, 2)), torch.ones(steps), atol=0.05, rtol=0)
    torch.testing.assert_close(noise.mean((1, 2)), torch.zeros(steps), atol=0.06, rtol=0)


@pytest.mark.parametrize("steps", [8, 9])
def test_the_filter_has_the_norm_1(steps: int) -> None:
    """One unit impulse gives the filter itself."""
    impulse = torch.zeros(steps, 1)
    impulse[0] = 1.0
    assert float(coloured(impulse, exponent=1.0).square().sum()) == pytest.approx(1.0, abs=1e-6)


def test_power_falls_with_frequency_as_the_exponent_says() -> None:
    power = torch.fft.rfft(coloured(white(64, 4000), exponent=1.0), dim=0).abs().square().mean((1, 2))
    assert float(power[2] / power[16]) == pytest.approx(8.0, rel=0.1)
    assert float(power[0] / power[1]) == pytest.approx(1.0, rel=0.1)


def test_a_single_step_has_no_neighbour() -> None:
    assert torch.equal(coloured(white(1), exponent=1.0), white(1))
