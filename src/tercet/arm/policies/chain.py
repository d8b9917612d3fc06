"""Policies that turn noise into a chunk of actions in several steps: what diffusion and flow matching share.

For PPO a decision is the whole chain from noise to actions (DPPO, Ren et al. 2024). Each step of it is drawn from a
Gaussian, so the log-probability of the chain is a sum, as for the tokens of a response. `ppo.clip_of` says whether PPO
clips the ratio of each step or that of the whole chain.
"""

from pathlib import Path
from typing import TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from tercet.arm.networks.files import load_weights, read_config, save_model
from tercet.arm.networks.layers import Scaled, perceptron
from tercet.arm.networks.sizes import Sizes
from tercet.arm.policies.distributions import Normal
from tercet.arm.policies.policy import Policy
from tercet.config.arm import PolicyConfig

NUM_STEPS = 5  # of a decision
LEVEL_SIZE = 16  # numbers that tell the network how noisy its input is


class ChainPolicy(Policy):
    """A perceptron over [observation, noisy actions, noise level]. A decision is [noise, less noise, ..., actions]."""

    kind: str  # in config.json
    num_levels: int  # of noise, in training

    def __init__(self, sizes: Sizes, *, hidden_size: int, num_layers: int, chunk_size: int, log_std: float) -> None:
        super().__init__()
        self.sizes, self.chunk = sizes, chunk_size
        self.shape = {"hidden_size": hidden_size, "num_layers": num_layers, "chunk_size": chunk_size}
        self.width = chunk_size * sizes.action
        self.noise_size = (NUM_STEPS + 1) * self.width
        self.scaled = Scaled(sizes.observation)
        self.net = perceptron(
            sizes.observation + self.width + LEVEL_SIZE, self.width, hidden_size, num_layers, gain=0.01
        )
        self.level_embed = nn.Embedding(self.num_levels, LEVEL_SIZE)
        self.log_std = nn.Parameter(torch.full((sizes.action,), log_std))

    def step_mean(
        self, scaled: Float[Tensor, "*shape o"], noised: Float[Tensor, "*shape w"], step: int
    ) -> Float[Tensor, "*shape w"]:
        """Return the mean of what follows `noised` in the chain."""
        raise NotImplementedError

    def step_stds(self) -> Float[Tensor, " k"]:
        """Return the standard deviation that each step has besides that of exploration."""
        raise NotImplementedError

    def errors(
        self, scaled: Float[Tensor, "b o"], clean: Float[Tensor, "b w"], levels: Int[Tensor, " b"], noise: Tensor
    ) -> Float[Tensor, "b w"]:
        """Return the squared errors of what the network predicts from clean actions with noise of these levels."""
        raise NotImplementedError

    def predict(
        self, scaled: Float[Tensor, "*shape o"], noised: Float[Tensor, "*shape w"], levels: Int[Tensor, "*shape"]
    ) -> Float[Tensor, "*shape w"]:
        """Return the output of the network."""
        return self.net(torch.cat([scaled, noised, self.level_embed(levels)], -1))

    def decide(
        self, observations: Float[Tensor, "*shape o"], noise: Float[Tensor, "*shape d"] | None, *pictures: Tensor
    ) -> Float[Tensor, "*shape d"]:
        """Sample the chain of a decision from standard normal noise; without noise, start at 0 and take the means."""
        draws = [] if noise is None else list(noise.split(self.width, -1))
        start = observations.new_zeros(*observations.shape[:-1], self.width)
        chain, scaled = [draws[0] if draws else start], self.scaled(observations)
        for step in range(NUM_STEPS):
            mean = self.step_mean(scaled, chain[-1], step)
            chain.append(mean + self._log_stds()[step].exp() * draws[step + 1] if draws else mean)
        return torch.cat(chain, -1)

    def actions(self, decisions: Float[Tensor, "*shape d"]) -> Float[Tensor, "*shape c a"]:
        """Return the end of the chain."""
        return decisions[..., -self.width :].unflatten(-1, (self.chunk, self.sizes.action))

    def distribution(
        self, observations: Float[Tensor, "*shape o"], decisions: Float[Tensor, "*shape d"], *pictures: Tensor
    ) -> Normal:
        """Return the distribution of these chains, given the noise that each started from."""
        scaled, chain = self.scaled(observations), decisions.split(self.width, -1)
        means = [self.step_mean(scaled, chain[step], step) for step in range(NUM_STEPS)]
        return Normal(decisions[..., self.width :], torch.cat(means, -1), self._log_stds().flatten(), NUM_STEPS)

    def imitation_loss(
        self,
        observations: Float[Tensor, "b o"],
        actions: Float[Tensor, "b c a"],
        mask: Bool[Tensor, "b c"],
        *pictures: Tensor,
    ) -> Float[Tensor, ""]:
        """Return the squared error of the prediction: mean over the existing actions, sum over rows.

        Noise and its levels are drawn by torch's global generator, which `fit` seeds.
        """
        # the network reads the whole chunk, so hide actions after an end
        clean = (actions * mask[..., None]).flatten(1)
        levels = torch.randint(self.num_levels, (len(clean),)).to(clean.device)
        noise = torch.randn(clean.shape).to(clean)
        errors = self.errors(self.scaled(observations), clean, levels, noise)
        error = errors.unflatten(1, actions.shape[1:]).mean(-1)
        return ((error * mask).sum(1) / mask.sum(1)).sum()

    def explore(self, log_std: float) -> None:
        """Set the log standard deviation of the noise that is added in every step, the last included."""
        nn.init.constant_(self.log_std, log_std)

    def save(self, folder: Path) -> None:
        """Write config.json and model.safetensors."""
        save_model(self, folder, {"kind": self.kind, **self.sizes.numbers(), **self.shape})

    def _log_stds(self) -> Float[Tensor, "k w"]:
        """Return the log standard deviation of each step and action: its own noise plus that of exploration."""
        variance = self.step_stds()[:, None].square() + (2 * self.log_std).exp().repeat(self.chunk)
        return 0.5 * variance.log()


C = TypeVar("C", bound=ChainPolicy)


def new_chain(kind: type[C], sizes: Sizes, config: PolicyConfig) -> C:
    """Create a policy."""
    return kind(
        sizes,
        hidden_size=config.hidden_size,
        num_layers=config.num_layers,
        chunk_size=config.chunk_size,
        log_std=config.log_std,
    )


def load_chain(kind: type[C], folder: Path, sizes: Sizes) -> C:
    """Load a saved policy and freeze it. Raises InputError if `folder` holds none, or one with other sizes."""
    shape = read_config(folder, kind.kind, ("hidden_size", "num_layers", "chunk_size"), **sizes.numbers())
    return load_weights(kind(sizes, log_std=0.0, **shape), folder)
