"""ACT (Zhao et al. 2023): a transformer that predicts a chunk of actions, trained as a conditional VAE.

For PPO it is a Gaussian over the executed actions of a chunk. Its mean is the network's output with latent 0. One chunk
is one decision.

It can also observe images. It can then be restricted to the entries of the observation where `own` is True.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor, nn
from torch.nn import functional

from tercet.arm.networks.act import BACKBONE_BATCH_SIZE, ActNetwork, ActShape
from tercet.arm.networks.files import check_sizes
from tercet.arm.networks.layers import Scaled
from tercet.arm.networks.resnet import load_backbone
from tercet.arm.networks.sizes import Sizes
from tercet.arm.policies import act_files
from tercet.arm.policies.act_files import ActFiles
from tercet.arm.policies.gaussian import ChunkGaussian
from tercet.arm.sim.cameras import cameras_of
from tercet.config.arm import PolicyConfig
from tercet.errors import InputError, first_line


class ActPolicy(ChunkGaussian):
    """A Gaussian over the first `chunk` actions of the network."""

    has_scales = True  # in its files

    def __init__(
        self, shape: ActShape, *, chunk: int, kl_weight: float, log_std: float, own: Bool[Tensor, " o"] | None = None
    ) -> None:
        super().__init__()
        self.own, self.cameras, self.sees_itself = own, shape.cameras, own is not None
        self.measures_norms = False  # True if the backbone has random weights, so that its norms are measured on images
        state_size = sum(shape.state_sizes.values())
        self.sizes = Sizes(state_size if own is None else len(own), shape.action_size)
        self.chunk, self.kl_weight = chunk, kl_weight
        self.noise_size = chunk * shape.action_size
        self.model = ActNetwork(shape)
        # LeRobot does not clip observations
        self.scaled = Scaled(self.sizes.observation, limit=math.inf)
        self.scaled_actions = Scaled(shape.action_size)
        self.scaled_pictures = nn.ModuleList(Scaled(3, limit=math.inf) for _ in shape.cameras)
        self.log_std = nn.Parameter(torch.full((shape.action_size,), log_std))

    def forward(
        self, observations: Float[Tensor, "*shape o"], *pictures: UInt8[Tensor, "*shape _ _ 3"]
    ) -> Float[Tensor, "*shape c a"]:
        """Return all actions of a chunk in the environment's units, with latent 0."""
        states = self._state(observations).flatten(0, -2)
        latent = states.new_zeros(len(states), self.model.shape.latent_dim)
        actions = self.model(states, latent, self._scale_pictures(pictures))
        actions = actions * self.scaled_actions.std + self.scaled_actions.mean
        return actions.unflatten(0, observations.shape[:-1])

    def mean(
        self, observations: Float[Tensor, "*shape o"], *pictures: UInt8[Tensor, "*shape _ _ 3"]
    ) -> Float[Tensor, "*shape d"]:
        """Return the actions that are executed, the first ones of the network's chunk, in a row."""
        return self(observations, *pictures)[..., : self.chunk, :].flatten(-2)

    def imitation_loss(
        self,
        observations: Float[Tensor, "b o"],
        actions: Float[Tensor, "b c a"],
        mask: Bool[Tensor, "b c"],
        *pictures: UInt8[Tensor, "b _ _ 3"],
    ) -> Float[Tensor, ""]:
        """Return the L1 error of the chunk plus `kl_weight` times the KL of the latent, summed over rows.

        The latent is drawn from the posterior by torch's global generator, which `fit` seeds. Actions are standardised.
        """
        rest = self.model.shape.chunk_size - actions.shape[1]  # of the network's chunk, which is not executed
        actions, mask = functional.pad(actions, (0, 0, 0, rest)), functional.pad(mask, (0, rest))
        states, targets = self._state(observations), (actions - self.scaled_actions.mean) / self.scaled_actions.std
        latent, divergence = states.new_zeros(len(states), self.model.shape.latent_dim), states.new_zeros(())
        if self.model.shape.use_vae:
            mean, log_variance = self.model.posterior(states, targets, mask)
            latent = mean + (0.5 * log_variance).exp() * torch.randn(mean.shape).to(mean)
            divergence = 0.5 * (log_variance.exp() + mean.square() - 1.0 - log_variance).sum()
        error = (self.model(states, latent, self._scale_pictures(pictures)) - targets).abs().mean(-1)
        # a mean over the existing actions of the chunk, so that every row has the same weight
        return ((error * mask).sum(1) / mask.sum(1)).sum() + self.kl_weight * divergence

    def measure(
        self,
        observations: Float[Tensor, "*shape o"],
        actions: Float[Tensor, "*shape a"],
        *pictures: UInt8[Tensor, "b _ _ 3"],
    ) -> None:
        """Set the scales of observations, actions and pictures."""
        self.scaled.measure(observations)
        self.scaled_actions.measure_with_min_std(actions)
        self.measure_pictures(*pictures)

    def measure_pictures(self, *pictures: UInt8[Tensor, "b _ _ 3"]) -> None:
        """Set the scale of pictures, and normalise a backbone with random weights on them."""
        sample = [images[:: -(-len(images) // BACKBONE_BATCH_SIZE)] for images in pictures]  # evenly spread
        for scaled, images in zip(self.scales_of_pictures(), sample, strict=True):
            scaled.measure_with_min_std(images / 255)
        if pictures and self.measures_norms:
            self.model.backbone.measure_norms(torch.cat(self._scale_pictures(sample)))

    def scales_of_pictures(self) -> list[Scaled]:
        """Return the scale of each camera's pictures."""
        return [cast(Scaled, scaled) for scaled in self.scaled_pictures]

    def averages(self) -> dict[str, Float[Tensor, " n"]]:
        """Return the average state and action of its training."""
        return {"state": self.scaled.mean, "action": self.scaled_actions.mean}

    def explore_each(self, log_stds: Float[Tensor, " a"]) -> None:
        """Set the log standard deviation of each number of an action."""
        self.log_std.data.copy_(log_stds)

    def save(self, folder: Path) -> None:
        """Write LeRobot's files and exploration.safetensors; see arm/policies/act_files.py."""
        weights = {name: value.cpu() for name, value in self.model.state_dict().items()}
        scales = {f"observation.{name}": value.cpu() for name, value in self.scaled.state_dict().items()}
        scales |= {f"action.{name}": value.cpu() for name, value in self.scaled_actions.state_dict().items()}
        log_std = self.log_std.detach().cpu()
        for camera, scaled in zip(self.cameras, self.scales_of_pictures(), strict=True):
            scaled_state = scaled.state_dict().items()
            scales |= {f"{act_files.feature_of(camera)}.{name}": value.cpu() for name, value in scaled_state}
        files = ActFiles(self.model.shape, self.chunk, self.kl_weight, weights, scales, log_std, self.own)
        act_files.write(folder, files)

    def _state(self, observations: Float[Tensor, "*shape o"]) -> Float[Tensor, "*shape s"]:
        scaled = self.scaled(observations)
        return scaled if self.own is None else scaled[..., self.own]

    def _scale_pictures(self, pictures: Sequence[Tensor]) -> list[Float[Tensor, "b 3 h w"]]:
        """Return each camera's pictures, standardised, in the layout of the backbone."""
        rows = [one.flatten(0, -4) for one in pictures]
        return [
            scaled(row / 255).permute(0, 3, 1, 2) for row, scaled in zip(rows, self.scales_of_pictures(), strict=True)
        ]


def new_act(sizes: Sizes, config: PolicyConfig) -> ActPolicy:
    """Create a policy.

    Entries that the robot measures are LeRobot's `observation.state`, the others its `observation.environment_state`.
    """
    own = sizes.own() if config.sees == "itself" else None
    shape = ActShape(
        state_sizes=_state_sizes(sizes) if own is None else {"robot": int(own.sum())},
        action_size=sizes.action,
        chunk_size=config.chunk_size,
        dim_model=config.hidden_size,
        n_heads=config.num_heads,
        dim_feedforward=4 * config.hidden_size,
        n_encoder_layers=config.num_layers,
        n_decoder_layers=1,
        n_vae_encoder_layers=config.num_layers,
        latent_dim=config.latent_size,
        cameras=cameras_of(config),
    )
    policy = ActPolicy(shape, chunk=config.chunk_size, kl_weight=config.kl_weight, log_std=config.log_std, own=own)
    policy.measures_norms = bool(config.cameras) and not config.backbone
    if config.cameras and config.backbone:
        load_backbone(policy.model.backbone, Path(config.backbone))
    return policy


def _state_sizes(sizes: Sizes) -> dict[str, int]:
    """Divide an observation between LeRobot's two states. LeRobot's ACT needs both if there are no pictures.

    Entries that the robot measures come first. If they are not known, the first half counts as such.
    """
    num_robot = sum(sizes.robot) if any(sizes.robot) else sizes.observation // 2
    assert all(sizes.robot[:num_robot]), "entries that the robot measures must come first"
    parts = {"robot": num_robot, "env": sizes.observation - num_robot}
    return {name: size for name, size in parts.items() if size}


def load_act(folder: Path, sizes: Sizes) -> ActPolicy:
    """Load a policy that this project or LeRobot saved, and freeze it. Raises InputError if its sizes differ."""
    files = act_files.read(folder)
    policy = ActPolicy(files.shape, chunk=files.chunk, kl_weight=files.kl_weight, log_std=0.0, own=files.own)
    check_sizes(folder, policy.sizes.numbers(), sizes.numbers())
    try:
        policy.model.load_state_dict(files.weights)
    except RuntimeError as error:
        raise InputError(f"{folder}: its weights do not fit this network ({first_line(error)})") from error
    of_pictures = zip(policy.scales_of_pictures(), map(act_files.feature_of, policy.cameras), strict=True)
    for scaled, name in ((policy.scaled, "observation"), (policy.scaled_actions, "action"), *of_pictures):
        scaled.mean.copy_(files.scales[f"{name}.mean"])
        scaled.std.copy_(files.scales[f"{name}.std"])
    if files.log_std is not None:
        policy.log_std.data.copy_(files.log_std)
    return policy.requires_grad_(False).eval()
