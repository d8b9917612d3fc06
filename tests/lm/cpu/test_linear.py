"""Linear layers are those that compute a matrix product and nothing else."""

import torch
from torch import Tensor, nn
from transformers import Llama4TextConfig, PhimoeConfig
from transformers.models.falcon.modeling_falcon import FalconLinear
from transformers.models.llama4.modeling_llama4 import Llama4Router
from transformers.models.phimoe.modeling_phimoe import PhimoeTopKRouter
from transformers.pytorch_utils import Conv1D

from tercet.lm.cpu.linear import is_linear, is_untouched


class Renamed(nn.Linear):
    """A subclass with the forward of nn.Linear."""


class Scaled(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return 0.5 * super().forward(x)


def test_a_layer_is_linear_if_its_class_has_a_known_forward() -> None:
    plain = [nn.Linear(2, 3), Renamed(2, 3), Conv1D(3, 2), FalconLinear(2, 3), nn.Linear(2, 3, bias=False)]
    others = [Scaled(2, 3), nn.Embedding(2, 3), nn.LayerNorm(2)]
    others += [PhimoeTopKRouter(PhimoeConfig(hidden_size=8)), Llama4Router(Llama4TextConfig(hidden_size=8))]
    assert [is_linear(layer) for layer in plain] == [True] * len(plain)
    assert [is_linear(layer) for layer in others] == [False] * len(others)


def test_falcons_linear_layer_equals_the_plain_one() -> None:
    layer, x = FalconLinear(4, 3), torch.ones(2, 4)
    torch.testing.assert_close(layer(x), nn.functional.linear(x, layer.weight, layer.bias))


def test_hooks_and_replaced_forwards_are_detected() -> None:
    layers = [nn.Linear(2, 3) for _ in range(4)]
    layers[1].register_forward_hook(lambda _m, _i, out: 2 * out)
    layers[2].register_forward_pre_hook(lambda _m, args: args)
    layers[3].forward = lambda x: x  # type: ignore[method-assign]  # as some libraries do
    assert [is_untouched(layer) for layer in layers] == [True, False, False, False]
