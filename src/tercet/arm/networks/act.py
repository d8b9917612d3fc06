"""The network of ACT (Zhao et al. 2023): a transformer from observations and a latent to a chunk of actions.

Parameters have the names and shapes of LeRobot's `policies/act`, so that each program can read the other's weights.
There is no dropout, because dropout would make PPO's ratio differ from 1. Images are optional: without cameras there is
no backbone.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from tercet.arm.networks.resnet import NUM_CHANNELS, ResNet
from tercet.arm.sim.cameras import Camera

BACKBONE_BATCH_SIZE = 64  # images per pass of the backbone, which bounds its memory


@dataclass(frozen=True)
class ActShape:
    """Sizes of the network, under LeRobot's names. `state_sizes` are the sizes of the parts of an observation."""

    state_sizes: dict[str, int]  # keys "robot" and "env": one of them, or both in this order
    action_size: int
    chunk_size: int
    dim_model: int
    n_heads: int
    dim_feedforward: int
    n_encoder_layers: int
    n_decoder_layers: int
    n_vae_encoder_layers: int
    latent_dim: int
    feedforward_activation: str = "relu"
    pre_norm: bool = False
    use_vae: bool = True
    cameras: tuple[Camera, ...] = ()
    vision_backbone: str = "resnet18"


class ActNetwork(nn.Module):
    """Predict standardised actions from standardised observations."""

    vae_encoder_pos_enc: Tensor

    def __init__(self, shape: ActShape) -> None:
        super().__init__()
        self.shape, dim = shape, shape.dim_model
        robot = shape.state_sizes.get("robot")
        if shape.use_vae:
            self.vae_encoder = Encoder(shape, shape.n_vae_encoder_layers)
            self.vae_encoder_cls_embed = nn.Embedding(1, dim)
            if robot:
                self.vae_encoder_robot_state_input_proj = nn.Linear(robot, dim)
            self.vae_encoder_action_input_proj = nn.Linear(shape.action_size, dim)
            self.vae_encoder_latent_output_proj = nn.Linear(dim, 2 * shape.latent_dim)
            num = 1 + (1 if robot else 0) + shape.chunk_size
            self.register_buffer("vae_encoder_pos_enc", sinusoids(num, dim)[None])
        if shape.cameras:
            self.backbone = ResNet(shape.vision_backbone)
        self.encoder = Encoder(shape, shape.n_encoder_layers)
        self.decoder = Decoder(shape)
        for name, size in shape.state_sizes.items():
            self.add_module(f"encoder_{name}_state_input_proj", nn.Linear(size, dim))
        self.encoder_latent_input_proj = nn.Linear(shape.latent_dim, dim)
        if shape.cameras:
            self.encoder_img_feat_input_proj = nn.Conv2d(NUM_CHANNELS, dim, 1)
        self.encoder_1d_feature_pos_embed = nn.Embedding(1 + len(shape.state_sizes), dim)
        self.decoder_pos_embed = nn.Embedding(shape.chunk_size, dim)
        self.action_head = nn.Linear(dim, shape.action_size)
        for parameter in [*self.encoder.parameters(), *self.decoder.parameters()]:
            if parameter.ndim > 1:
                nn.init.xavier_uniform_(parameter)
        nn.init.orthogonal_(self.action_head.weight, 0.01)  # a fresh policy does almost nothing
        nn.init.zeros_(self.action_head.bias)

    def forward(
        self, observations: Float[Tensor, "b o"], latent: Float[Tensor, "b z"], pictures: Sequence[Tensor] = ()
    ) -> Float[Tensor, "b c a"]:
        """Predict a chunk of actions. `pictures` holds one standardised (b, 3, h, w) tensor per camera."""
        tokens = [self.encoder_latent_input_proj(latent)]
        for (name, _), part in zip(self.shape.state_sizes.items(), self._parts(observations), strict=True):
            tokens.append(self.get_submodule(f"encoder_{name}_state_input_proj")(part))
        positions = self.encoder_1d_feature_pos_embed.weight[None]
        memory = torch.stack(tokens, 1)
        if pictures:
            maps = [self._feature_map(images) for images in pictures]
            memory = torch.cat([memory, *(one.flatten(2).transpose(1, 2) for one in maps)], 1)
            grids = [position_grid(one.shape[2], one.shape[3], self.shape.dim_model)[None] for one in maps]
            positions = torch.cat([positions, *(grid.to(positions) for grid in grids)], 1)
        memory = self.encoder(memory, positions, None)
        queries = self.decoder_pos_embed.weight[None].expand(len(observations), -1, -1)
        return self.action_head(self.decoder(queries, memory, positions))

    def posterior(
        self, observations: Float[Tensor, "b o"], actions: Float[Tensor, "b c a"], mask: Bool[Tensor, "b c"]
    ) -> tuple[Float[Tensor, "b z"], Float[Tensor, "b z"]]:
        """Return mean and log-variance of the latent, given the observations and the actions that followed."""
        tokens = [self.vae_encoder_cls_embed.weight.expand(len(actions), 1, -1)]
        if "robot" in self.shape.state_sizes:
            tokens.append(self.vae_encoder_robot_state_input_proj(self._parts(observations)[0])[:, None])
        num_prefix = len(tokens)
        tokens.append(self.vae_encoder_action_input_proj(actions))
        padding = torch.cat([mask.new_zeros(len(mask), num_prefix), ~mask], 1)
        first = self.vae_encoder(torch.cat(tokens, 1), self.vae_encoder_pos_enc, padding)[:, 0]
        mean, log_variance = self.vae_encoder_latent_output_proj(first).chunk(2, -1)
        return mean, log_variance

    def _feature_map(self, pictures: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d y x"]:
        maps = [self.backbone(part) for part in pictures.split(BACKBONE_BATCH_SIZE)]
        return self.encoder_img_feat_input_proj(torch.cat(maps))

    def _parts(self, observations: Float[Tensor, "b o"]) -> Sequence[Tensor]:
        return observations.split(list(self.shape.state_sizes.values()), -1)


class Encoder(nn.Module):
    """Layers of self-attention. Positions are added to queries and keys only, as in DETR (Carion et al. 2020)."""

    def __init__(self, shape: ActShape, num_layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList([EncoderLayer(shape) for _ in range(num_layers)])
        self.norm = nn.LayerNorm(shape.dim_model) if shape.pre_norm else nn.Identity()

    def forward(
        self, x: Float[Tensor, "b s d"], positions: Float[Tensor, "1 s d"], padding: Bool[Tensor, "b s"] | None
    ) -> Float[Tensor, "b s d"]:
        """Encode the tokens. Those where `padding` is True are ignored."""
        for layer in self.layers:
            x = layer(x, positions, padding)
        return self.norm(x)


class EncoderLayer(nn.Module):
    """Self-attention, then two linear layers. Layer norm comes before or after each of the two parts."""

    def __init__(self, shape: ActShape) -> None:
        super().__init__()
        self.self_attn = nn.MultiheadAttention(shape.dim_model, shape.n_heads, batch_first=True)
        self.linear1, self.linear2 = _feedforward(shape)
        self.norm1, self.norm2 = (nn.LayerNorm(shape.dim_model) for _ in range(2))
        self.pre_norm, self.activation = shape.pre_norm, _activation(shape)

    def forward(self, x: Tensor, positions: Tensor, padding: Tensor | None) -> Tensor:
        inputs = self.norm1(x) if self.pre_norm else x
        keys = inputs + positions
        x = x + self.self_attn(keys, keys, inputs, key_padding_mask=padding, need_weights=False)[0]
        x = x if self.pre_norm else self.norm1(x)
        inputs = self.norm2(x) if self.pre_norm else x
        x = x + self.linear2(self.activation(self.linear1(inputs)))
        return x if self.pre_norm else self.norm2(x)


class Decoder(nn.Module):
    """Layers of self-attention between the actions of a chunk and of attention to the encoder's output."""

    def __init__(self, shape: ActShape) -> None:
        super().__init__()
        self.layers = nn.ModuleList([DecoderLayer(shape) for _ in range(shape.n_decoder_layers)])
        self.norm = nn.LayerNorm(shape.dim_model)

    def forward(
        self, queries: Float[Tensor, "b c d"], memory: Float[Tensor, "b s d"], positions: Float[Tensor, "1 s d"]
    ) -> Float[Tensor, "b c d"]:
        """Decode from zeros. `queries` are the position embeddings of the actions, `memory` is the encoder's output."""
        x = torch.zeros_like(queries)
        for layer in self.layers:
            x = layer(x, queries, memory, positions)
        return self.norm(x)


class DecoderLayer(nn.Module):
    """Self-attention, attention to the encoder's output, then two linear layers."""

    def __init__(self, shape: ActShape) -> None:
        super().__init__()
        self.self_attn = nn.MultiheadAttention(shape.dim_model, shape.n_heads, batch_first=True)
        self.multihead_attn = nn.MultiheadAttention(shape.dim_model, shape.n_heads, batch_first=True)
        self.linear1, self.linear2 = _feedforward(shape)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(shape.dim_model) for _ in range(3))
        self.pre_norm, self.activation = shape.pre_norm, _activation(shape)

    def forward(self, x: Tensor, queries: Tensor, memory: Tensor, positions: Tensor) -> Tensor:
        inputs = self.norm1(x) if self.pre_norm else x
        keys = inputs + queries
        x = x + self.self_attn(keys, keys, inputs, need_weights=False)[0]
        x = x if self.pre_norm else self.norm1(x)
        inputs = self.norm2(x) if self.pre_norm else x
        x = x + self.multihead_attn(inputs + queries, memory + positions, memory, need_weights=False)[0]
        x = x if self.pre_norm else self.norm2(x)
        inputs = self.norm3(x) if self.pre_norm else x
        x = x + self.linear2(self.activation(self.linear1(inputs)))
        return x if self.pre_norm else self.norm3(x)


def sinusoids(num: int, dim: int) -> Float[Tensor, "n d"]:
    """Return fixed position embeddings (Vaswani et al. 2017, section 3.5): sines in even columns, else cosines."""
    columns = torch.arange(dim)
    rates = torch.exp(-math.log(10000.0) * (2 * (columns // 2)).double() / dim)
    angles = torch.arange(num)[:, None].double() * rates
    return torch.where(columns % 2 == 0, angles.sin(), angles.cos()).float()


def position_grid(height: int, width: int, dim: int) -> Float[Tensor, "hw d"]:
    """Return fixed position embeddings of a feature map's cells, row by row (Carion et al. 2020, appendix A.4).

    The first half of the columns encodes the row of a cell, the second half its column. Rows and columns count from 1
    and are scaled so that the last one is at 2 pi.
    """
    rates = 10000.0 ** -(2 * (torch.arange(dim // 2) // 2) / (dim // 2))

    def waves(num: int) -> Tensor:
        phases = torch.arange(1, num + 1, dtype=torch.float32) / (num + 1e-6) * 2 * math.pi
        angles = phases[:, None] * rates
        return torch.stack([angles[:, 0::2].sin(), angles[:, 1::2].cos()], -1).flatten(1)

    rows, columns = waves(height), waves(width)
    return torch.cat([rows.repeat_interleave(width, 0), columns.repeat(height, 1)], 1)


def _feedforward(shape: ActShape) -> tuple[nn.Linear, nn.Linear]:
    return nn.Linear(shape.dim_model, shape.dim_feedforward), nn.Linear(shape.dim_feedforward, shape.dim_model)


def _activation(shape: ActShape) -> nn.Module:
    return {"relu": nn.ReLU, "gelu": nn.GELU}[shape.feedforward_activation]()
