"""Gaussians over the actions of a chunk, and the policy `gaussian`, which has one action in each."""

from pathlib import Path

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from tercet.arm.networks.files import load_weights, read_config, save_model
from tercet.arm.networks.layers import Scaled, perceptron
from tercet.arm.networks.sizes import Sizes
from tercet.arm.policies.distributions import Normal
from tercet.arm.policies.policy import Policy
from tercet.config.arm import PolicyConfig
from tercet.core import gaussian


class ChunkGaussian(Policy):
    """A Gaussian over the actions of a chunk. `log_std` holds one number per joint."""

    log_std: nn.Parameter

    def mean(self, observations: Float[Tensor, "*shape o"], *pictures: Tensor) -> Float[Tensor, "*shape d"]:
        """Return the mean of a chunk of actions, in a row."""
        return self(observations, *pictures)

    def decide(
        self, observations: Float[Tensor, "*shape o"], noise: Float[Tensor, "*shape d"] | None, *pictures: Tensor
    ) -> Float[Tensor, "*shape d"]:
        """Sample the actions of a chunk, in a row, from standard normal noise; return their means without noise."""
        mean = self.mean(observations, *pictures)
        return mean if noise is None else gaussian.sample(mean, self._log_std(), noise)

    def actions(self, decisions: Float[Tensor, "*shape d"]) -> Float[Tensor, "*shape c a"]:
        """Split a decision into its actions."""
        return decisions.unflatten(-1, (self.chunk, self.sizes.action))

    def distribution(
        self, observations: Float[Tensor, "*shape o"], decisions: Float[Tensor, "*shape d"], *pictures: Tensor
    ) -> Normal:
        """Return the distribution of these decisions."""
        return Normal(decisions, self.mean(observations, *pictures), self._log_std())

    def explore(self, log_std: float) -> None:
        """Set the log standard deviation."""
        nn.init.constant_(self.log_std, log_std)

    def _log_std(self) -> Tensor:
        return self.log_std.repeat(self.chunk)


class GaussianPolicy(ChunkGaussian):
    """A Gaussian over single actions. A perceptron computes its mean."""

    def __init__(self, sizes: Sizes, *, hidden_size: int, num_layers: int, log_std: float) -> None:
        super().__init__()
        self.sizes, self.shape = sizes, {"hidden_size": hidden_size, "num_layers": num_layers}
        self.noise_size = sizes.action
        self.scaled = Scaled(sizes.observation)
        self.net = perceptron(sizes.observation, sizes.action, hidden_size, num_layers, gain=0.01)
        self.log_std = nn.Parameter(torch.full((sizes.action,), log_std))

    def forward(self, observations: Float[Tensor, "*shape o"]) -> Float[Tensor, "*shape a"]:
        """Return the mean action."""
        return self.net(self.scaled(observations))

    def imitation_loss(
        self,
        observations: Float[Tensor, "b o"],
        actions: Float[Tensor, "b 1 a"],
        mask: Bool[Tensor, "b 1"],
        *pictures: Tensor,
    ) -> Float[Tensor, ""]:
        """Return the squared error of the mean action, averaged over its dimensions and summed over rows."""
        return (self(observations) - actions[:, 0]).square().mean(-1).sum()

    def save(self, folder: Path) -> None:
        """Write config.json and model.safetensors."""
        save_model(self, folder, {"kind": "policy", **self.sizes.numbers(), **self.shape})


def new_gaussian(sizes: Sizes, config: PolicyConfig) -> GaussianPolicy:
    """Create a policy whose actions are near 0."""
    return GaussianPolicy(sizes, hidden_size=config.hidden_size, num_layers=config.num_layers, log_std=config.log_std)


def load_gaussian(folder: Path, sizes: Sizes) -> GaussianPolicy:
    """Load a saved policy and freeze it. Raises InputError if `folder` holds none, or one with other sizes."""
    shape = read_config(folder, "policy", ("hidden_size", "num_layers"), **sizes.numbers())
    return load_weights(GaussianPolicy(sizes, log_std=0.0, **shape), folder)
