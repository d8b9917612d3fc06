"""A ResNet (He et al. 2016) up to its last feature map, with normalisation that does not learn.

Parameters bear torchvision's names and shapes, so that its weights and LeRobot's are read. It is written out because
the torchvision on PyPI is built for CUDA and cannot be imported beside a torch for CPUs.
"""

from pathlib import Path

import torch
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from tercet.errors import InputError, first_line

BLOCKS = {"resnet18": (2, 2, 2, 2), "resnet34": (3, 4, 6, 3)}
NUM_CHANNELS = 512  # of the last feature map, whose sides are 1/32 of the picture's
_HEAD = ("fc.weight", "fc.bias")  # of the classifier, which is not here


class ResNet(nn.Module):
    """From pictures at unit scale to feature maps."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = FrozenBatchNorm(64)
        size = 64
        for number, num_blocks in enumerate(BLOCKS[name]):
            wider = 64 * 2**number
            first = Block(size, wider, stride=1 if number == 0 else 2)
            layer = nn.Sequential(first, *(Block(wider, wider, stride=1) for _ in range(num_blocks - 1)))
            self.add_module(f"layer{number + 1}", layer)
            size = wider
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, pictures: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b c y x"]:
        """The last feature map."""
        x = functional.max_pool2d(self.bn1(self.conv1(pictures)).relu(), 3, stride=2, padding=1)
        for number in range(1, 5):
            x = self.get_submodule(f"layer{number}")(x)
        return x

    @torch.no_grad()
    def settle(self, pictures: Float[Tensor, "b 3 h w"]) -> None:
        """Set mean and variance of every normalisation from its input, one layer after the other.

        With random weights nothing else keeps the scale of activations from block to block.
        """
        norms = [module for module in self.modules() if isinstance(module, FrozenBatchNorm)]
        hooks = [norm.register_forward_pre_hook(lambda module, inputs: _measure(module, *inputs)) for norm in norms]
        self(pictures)
        for hook in hooks:
            hook.remove()


class Block(nn.Module):
    """A residual block of two convolutions."""

    def __init__(self, size_in: int, size_out: int, *, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(size_in, size_out, 3, stride=stride, padding=1, bias=False)
        self.bn1 = FrozenBatchNorm(size_out)
        self.conv2 = nn.Conv2d(size_out, size_out, 3, padding=1, bias=False)
        self.bn2 = FrozenBatchNorm(size_out)
        if stride != 1 or size_in != size_out:
            self.downsample = nn.Sequential(
                nn.Conv2d(size_in, size_out, 1, stride=stride, bias=False), FrozenBatchNorm(size_out)
            )
        else:
            self.downsample = nn.Identity()

    def forward(self, x: Float[Tensor, "b c y x"]) -> Float[Tensor, "b d v u"]:
        """Return the ReLU of the sum of both paths."""
        inner = self.bn1(self.conv1(x)).relu()
        return (self.bn2(self.conv2(inner)) + self.downsample(x)).relu()


class FrozenBatchNorm(nn.Module):
    """Batch normalisation whose statistics and scale are buffers: no batch changes them, and a row sees no other."""

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.ones(size))
        self.register_buffer("bias", torch.zeros(size))
        self.register_buffer("running_mean", torch.zeros(size))
        self.register_buffer("running_var", torch.ones(size))

    def forward(self, x: Float[Tensor, "b c y x"]) -> Float[Tensor, "b c y x"]:
        """Normalise, scale and shift each channel."""
        scale = self.weight * (self.running_var + 1e-5).rsqrt()
        shift = self.bias - self.running_mean * scale
        return x * scale[:, None, None] + shift[:, None, None]

    def measure(self, x: Float[Tensor, "b c y x"]) -> None:
        """Set mean and variance from these."""
        self.running_mean.copy_(x.mean((0, 2, 3)))
        self.running_var.copy_(x.var((0, 2, 3), unbiased=False))


def _measure(norm: nn.Module, x: Tensor) -> None:
    assert isinstance(norm, FrozenBatchNorm)  # hooked to these alone
    norm.measure(x)


def load_backbone(backbone: ResNet, file: Path) -> None:
    """Fill it with weights in torchvision's names (.pth or .safetensors); InputError where they are not its own."""
    try:
        found = load_file(file) if file.suffix == ".safetensors" else torch.load(file, weights_only=True)
        weights = {name: value for name, value in found.items() if name not in _HEAD}
        weights = {name: value for name, value in weights.items() if not name.endswith("num_batches_tracked")}
        backbone.load_state_dict(weights)
    except Exception as error:  # of a file of something else, torch's reader raises whatever it stumbles over
        raise InputError(
            f"policy.backbone={file}: holds no weights of this ResNet ({first_line(error)}); "
            "give a file that torchvision's resnet18 was saved in"
        ) from error
