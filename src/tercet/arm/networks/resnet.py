"""A ResNet (He et al. 2016) up to its last feature map, with frozen batch normalisation.

Parameters have torchvision's names and shapes, so that weights of torchvision and LeRobot can be loaded. It does not
import torchvision, because the torchvision on PyPI is built for CUDA and does not work with a CPU build of torch.
"""

from pathlib import Path

import torch
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from tercet.errors import InputError, first_line

BLOCKS = {"resnet18": (2, 2, 2, 2), "resnet34": (3, 4, 6, 3)}
NUM_CHANNELS = 512  # of the last feature map, whose sides are 1/32 of those of the image
_CLASSIFIER = ("fc.weight", "fc.bias")  # not part of the backbone


class ResNet(nn.Module):
    """Compute feature maps of standardised images."""

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
        """Return the last feature map."""
        x = functional.max_pool2d(self.bn1(self.conv1(pictures)).relu(), 3, stride=2, padding=1)
        for number in range(1, 5):
            x = self.get_submodule(f"layer{number}")(x)
        return x

    @torch.no_grad()
    def measure_norms(self, pictures: Float[Tensor, "b 3 h w"]) -> None:
        """Set mean and variance of every norm from its input on these images, in the order of the layers.

        A network with random weights needs this: otherwise the scale of activations changes from block to block.
        """
        norms = [module for module in self.modules() if isinstance(module, FrozenBatchNorm)]
        hooks = [norm.register_forward_pre_hook(lambda module, inputs: _measure(module, *inputs)) for norm in norms]
        self(pictures)
        for hook in hooks:
            hook.remove()


class Block(nn.Module):
    """A residual block with two convolutions."""

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
    """Batch normalisation with fixed statistics and scale, so that a row's output does not depend on its batch."""

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
        """Set mean and variance of each channel from these activations."""
        self.running_mean.copy_(x.mean((0, 2, 3)))
        self.running_var.copy_(x.var((0, 2, 3), unbiased=False))


def _measure(norm: nn.Module, x: Tensor) -> None:
    assert isinstance(norm, FrozenBatchNorm)  # `measure_norms` hooks no other modules
    norm.measure(x)


def load_backbone(backbone: ResNet, file: Path) -> None:
    """Load torchvision's weights (.pth or .safetensors). Raises InputError if they do not fit this network."""
    try:
        tensors = load_file(file) if file.suffix == ".safetensors" else torch.load(file, weights_only=True)
        weights = {name: value for name, value in tensors.items() if name not in _CLASSIFIER}
        weights = {name: value for name, value in weights.items() if not name.endswith("num_batches_tracked")}
        backbone.load_state_dict(weights)
    except Exception as error:  # torch can raise almost any error for a file of another format
        raise InputError(
            f"policy.backbone={file}: not the weights of a resnet18 ({first_line(error)}); "
            "give the state dict of torchvision's resnet18, saved as .pth or .safetensors"
        ) from error
