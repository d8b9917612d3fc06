"""A vision transformer (Dosovitskiy et al. 2021) with the parameter names of timm, as far as OpenVLA uses it.

DINOv2 has a class token, registers (Darcet et al. 2024) and scaled residuals; SigLIP has none of these. Returned is
what the last block but one says of each patch. It is plain torch, because OpenVLA's code names versions of timm and
transformers that do not run beside current ones; a test compares it with that code.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

_EPS = 1e-6  # of the layer norms


@dataclass(frozen=True)
class VitShape:
    """Sizes of the blocks that are run, which are all but the last."""

    image_size: int
    patch_size: int
    width: int
    depth: int
    num_heads: int
    mlp_size: int
    num_registers: int
    has_class: bool
    has_scale: bool

    @property
    def num_patches(self) -> int:
        """Return the number of patches of a picture."""
        return (self.image_size // self.patch_size) ** 2


class Vit(nn.Module):
    """Patches of a picture, and what they attend to. Positions are added to patches only."""

    def __init__(self, shape: VitShape) -> None:
        super().__init__()
        self.shape = shape
        self.patch_embed = _Patches(shape)
        self.pos_embed = nn.Parameter(torch.zeros(1, shape.num_patches, shape.width))
        self.cls_token = nn.Parameter(torch.zeros(1, 1, shape.width)) if shape.has_class else None
        registers = torch.zeros(1, shape.num_registers, shape.width)
        self.reg_token = nn.Parameter(registers) if shape.num_registers else None
        self.blocks = nn.ModuleList(_Block(shape) for _ in range(shape.depth))

    def forward(self, pictures: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b p d"]:
        """Return one vector for each patch of a standardised picture."""
        patches = self.patch_embed(pictures) + self.pos_embed
        first = [one.expand(len(pictures), -1, -1) for one in (self.cls_token, self.reg_token) if one is not None]
        x = torch.cat([*first, patches], 1)
        for block in self.blocks:
            x = block(x)
        return x[:, -self.shape.num_patches :]


class _Patches(nn.Module):
    def __init__(self, shape: VitShape) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, shape.width, shape.patch_size, shape.patch_size)

    def forward(self, pictures: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b p d"]:
        return self.proj(pictures).flatten(2).transpose(1, 2)


class _Block(nn.Module):
    def __init__(self, shape: VitShape) -> None:
        super().__init__()
        self.norm1, self.norm2 = (nn.LayerNorm(shape.width, eps=_EPS) for _ in range(2))
        self.attn, self.mlp = _Attention(shape), _Mlp(shape)
        self.ls1, self.ls2 = (_Scale(shape.width) if shape.has_scale else nn.Identity() for _ in range(2))

    def forward(self, x: Float[Tensor, "b s d"]) -> Float[Tensor, "b s d"]:
        x = x + self.ls1(self.attn(self.norm1(x)))
        return x + self.ls2(self.mlp(self.norm2(x)))


class _Attention(nn.Module):
    def __init__(self, shape: VitShape) -> None:
        super().__init__()
        self.num_heads = shape.num_heads
        self.qkv, self.proj = nn.Linear(shape.width, 3 * shape.width), nn.Linear(shape.width, shape.width)

    def forward(self, x: Float[Tensor, "b s d"]) -> Float[Tensor, "b s d"]:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        return self.proj(nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class _Mlp(nn.Module):
    def __init__(self, shape: VitShape) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(shape.width, shape.mlp_size), nn.Linear(shape.mlp_size, shape.width)

    def forward(self, x: Float[Tensor, "b s d"]) -> Float[Tensor, "b s d"]:
        return self.fc2(nn.functional.gelu(self.fc1(x)))


class _Scale(nn.Module):
    """A factor for each number of a residual (Touvron et al. 2021), under the name that OpenVLA gives it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale_factor = nn.Parameter(torch.ones(width))

    def forward(self, x: Float[Tensor, "b s d"]) -> Float[Tensor, "b s d"]:
        return x * self.scale_factor
