"""The fused layer has the numbers and gradients of peft's layer, and uses peft's forward if it is not plain."""

from collections.abc import Callable

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import Linear as LoraLinear
from torch import Tensor, nn

from tercet.config.lm import LmConfig
from tercet.lm.cpu.lora_product import FusedLora, fuse
from tercet.lm.models.roles import load_policy

MakeConfig = Callable[..., LmConfig]


class TwoLayers(nn.Module):
    """One layer with a bias and one without."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 10), nn.Linear(10, 4, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x).tanh())


def adapted(dropout: float = 0.0) -> nn.Module:
    """Add rank-3 adapters that have an effect."""
    torch.manual_seed(0)
    model = TwoLayers()
    settings = LoraConfig(r=3, lora_alpha=5, lora_dropout=dropout, target_modules=["first", "second"])
    out = get_peft_model(model, settings)  # type: ignore[arg-type]  # any module will do
    with torch.no_grad():
        for name, parameter in out.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    return out


def numbers_and_gradients(model: nn.Module) -> list[Tensor]:
    """Return the output for a batch of sequences, and the gradients of its input and of every adapter."""
    model.zero_grad()
    x = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(1), requires_grad=True)
    y = model(x)
    (y * torch.arange(4)).square().sum().backward()
    assert x.grad is not None
    return [y.detach(), x.grad, *(p.grad for p in model.parameters() if p.grad is not None)]


def test_numbers_and_gradients_equal_those_of_peft() -> None:
    model = adapted()
    theirs = numbers_and_gradients(model)
    fuse(model)
    assert sum(isinstance(module, FusedLora) for module in model.modules()) == 2
    ours = numbers_and_gradients(model)
    assert len(ours) == len(theirs) == 2 + 4
    for mine, other in zip(ours, theirs, strict=True):
        assert float(other.abs().max()) > 0.1
        assert torch.allclose(mine, other, rtol=1e-4, atol=1e-4)


def test_dropout_and_disabled_adapters_use_the_forward_of_peft(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    own = LoraLinear.forward
    monkeypatch.setattr(LoraLinear, "forward", lambda *given, **more: (calls.append("peft"), own(*given, **more))[1])
    model = adapted(dropout=0.5)
    fuse(model)
    model.train()
    model(torch.ones(1, 6))
    assert len(calls) == 2
    model.eval()
    model(torch.ones(1, 6))
    assert len(calls) == 2
    with model.disable_adapter():  # type: ignore[operator]  # peft's method, behind nn.Module's types
        model(torch.ones(1, 6))
    assert len(calls) == 4


def test_every_adapted_layer_of_a_trained_policy_is_fused(make_config: MakeConfig) -> None:
    policy = load_policy(make_config("llama", lora={"rank": 2}), learns=True)
    layers = [module for module in policy.modules() if isinstance(module, LoraLinear)]
    assert len(layers) == 14 and all(type(layer) is FusedLora for layer in layers)
