"""The policy `conv`: an encoder for the pictures of each camera, and a Gaussian over a chunk of actions.

The encoders learn in behaviour cloning only. In PPO they are frozen, so a rollout holds their features, which are small
and computed once, and not pictures.
"""

from pathlib import Path

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor, nn

from tercet.arm.networks.eye import NUM_FEATURES, Eye
from tercet.arm.networks.files import load_weights, read_config, read_json, save_model
from tercet.arm.networks.layers import Scaled, perceptron
from tercet.arm.networks.sizes import Sizes
from tercet.arm.policies.gaussian import ChunkGaussian
from tercet.arm.sim.cameras import Camera, cameras_of
from tercet.config.arm import PolicyConfig
from tercet.errors import InputError

MAX_SHIFT = 1  # pixels by which pictures are shifted at random in cloning (Yarats et al. 2021)


class ConvPolicy(ChunkGaussian):
    """A Gaussian over chunks of actions. A perceptron computes its mean from features of pictures and a state.

    The state is the entries of an observation where `own` is True.
    """

    own: Tensor

    def __init__(
        self,
        sizes: Sizes,
        cameras: tuple[Camera, ...],
        *,
        own: Bool[Tensor, " o"],
        hidden_size: int,
        num_layers: int,
        chunk_size: int,
        log_std: float,
    ) -> None:
        super().__init__()
        self.sizes, self.cameras, self.sees_itself = sizes, cameras, not own.all()
        self.register_buffer("own", own)
        self.shape = {"hidden_size": hidden_size, "num_layers": num_layers, "chunk_size": chunk_size}
        self.chunk, self.noise_size = chunk_size, chunk_size * sizes.action
        self.scaled = Scaled(sizes.observation)
        self.eyes = nn.ModuleList(Eye() for _ in cameras)
        self.num_features = NUM_FEATURES * len(cameras)
        num_inputs = int(own.sum()) + self.num_features
        self.net = perceptron(num_inputs, self.noise_size, hidden_size, num_layers, gain=0.01)
        if self.sees_itself:
            # what is hidden, as the demonstrations know it: encoders that must tell it learn from fewer of them
            self.hidden = nn.Linear(num_inputs, int((~own).sum()))
        self.log_std = nn.Parameter(torch.full((sizes.action,), log_std))

    def look(self, *pictures: UInt8[Tensor, "*shape _ _ 3"]) -> tuple[Float[Tensor, "*shape f"], ...]:
        """Return the features of the pictures of all cameras."""
        shape = pictures[0].shape[:-3]
        features = [eye(images.flatten(0, -4)) for eye, images in zip(self.eyes, pictures, strict=True)]
        return (torch.cat(features, -1).unflatten(0, shape),)

    def forward(self, observations: Float[Tensor, "*shape o"], features: Float[Tensor, "*shape f"]) -> Tensor:
        """Return the mean of a chunk of actions, in a row."""
        return self.net(self._inputs(observations, features))

    def imitation_loss(
        self,
        observations: Float[Tensor, "b o"],
        actions: Float[Tensor, "b c a"],
        mask: Bool[Tensor, "b c"],
        *pictures: UInt8[Tensor, "b _ _ 3"],
    ) -> Float[Tensor, ""]:
        """Return the squared error of the mean actions, plus that of what is hidden, both means summed over rows.

        Shifts of the pictures are drawn by torch's global generator, which `fit` seeds.
        """
        (features,) = self.look(*map(shifted, pictures))
        error = (self.actions(self(observations, features)) - actions).square().mean(-1)
        loss = ((error * mask).sum(1) / mask.sum(1)).sum()
        if not self.sees_itself:
            return loss
        told = self.hidden(self._inputs(observations, features))
        return loss + (told - self.scaled(observations)[..., ~self.own]).square().mean(-1).sum()

    def explore(self, log_std: float) -> None:
        """Set the log standard deviation, and freeze everything that only cloning trains."""
        super().explore(log_std)
        self.requires_grad_(False)
        for learning in (self.net, self.log_std):
            learning.requires_grad_(True)

    def save(self, folder: Path) -> None:
        """Write config.json and model.safetensors."""
        cameras, num_states = [vars(camera) for camera in self.cameras], int(self.own.sum())
        config = {"kind": "conv", **self.sizes.numbers(), **self.shape, "num_states": num_states, "cameras": cameras}
        save_model(self, folder, config)

    def _inputs(self, observations: Tensor, features: Tensor) -> Tensor:
        return torch.cat([self.scaled(observations)[..., self.own], features], -1)


def shifted(pictures: UInt8[Tensor, "b h w 3"]) -> UInt8[Tensor, "b h w 3"]:
    """Shift each picture by up to MAX_SHIFT pixels in both directions; its border is repeated."""
    num, height, width, _ = pictures.shape
    down, across = torch.randint(-MAX_SHIFT, MAX_SHIFT + 1, (2, num, 1)).to(pictures.device)
    rows = (torch.arange(height, device=pictures.device) + down).clamp(0, height - 1)
    columns = (torch.arange(width, device=pictures.device) + across).clamp(0, width - 1)
    return pictures[torch.arange(num)[:, None, None], rows[:, :, None], columns[:, None, :]]


def new_conv(sizes: Sizes, config: PolicyConfig) -> ConvPolicy:
    """Create a policy whose actions are near 0."""
    own = sizes.own() if config.sees == "itself" else torch.ones(sizes.observation, dtype=torch.bool)
    return ConvPolicy(
        sizes,
        cameras_of(config),
        own=own,
        hidden_size=config.hidden_size,
        num_layers=config.num_layers,
        chunk_size=config.chunk_size,
        log_std=config.log_std,
    )


def load_conv(folder: Path, sizes: Sizes) -> ConvPolicy:
    """Load a saved policy and freeze it. Raises InputError if `folder` holds none, or one with other sizes."""
    shape = read_config(folder, "conv", (*_SHAPE, "num_states"), "cameras", **sizes.numbers())
    num_states, file = shape.pop("num_states"), folder / "config.json"
    try:
        cameras = tuple(Camera(one["name"], one["height"], one["width"]) for one in read_json(file)["cameras"])
    except (KeyError, TypeError) as error:
        raise InputError(f"{file}: cameras must hold name, height and width of each; copy the folder again") from error
    own = torch.arange(sizes.observation) < num_states  # which ones is among the weights
    return load_weights(ConvPolicy(sizes, cameras, own=own, log_std=0.0, **shape), folder)


_SHAPE = ("hidden_size", "num_layers", "chunk_size")
