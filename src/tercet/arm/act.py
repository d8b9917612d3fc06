"""ACT (Zhao et al. 2023): a chunk of actions at a time, from a transformer that is learned as a conditional VAE.

For PPO it is a Gaussian over the actions of a chunk that are executed, around the network's with latent 0: one decision
a chunk.
"""

from pathlib import Path

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from tercet.arm import act_files
from tercet.arm.act_files import ActFiles
from tercet.arm.act_network import ActNetwork, ActShape
from tercet.arm.distributions import Normal
from tercet.arm.models import LEAST_STD, Scaled, Sizes
from tercet.config.arm import PolicyConfig
from tercet.core import gaussian
from tercet.errors import InputError, first_line


class ActPolicy(nn.Module):
    """A Gaussian over the first `chunk` actions of the network's; `log_std` is one number for each joint."""

    def __init__(self, shape: ActShape, *, chunk: int, kl_weight: float, log_std: float) -> None:
        super().__init__()
        self.sizes = Sizes(sum(shape.state_sizes.values()), shape.action_size)
        self.chunk, self.kl_weight = chunk, kl_weight
        self.noise_size = chunk * shape.action_size
        self.model = ActNetwork(shape)
        self.scaled, self.scaled_actions = Scaled(self.sizes.observation), Scaled(shape.action_size)
        self.log_std = nn.Parameter(torch.full((shape.action_size,), log_std))

    def forward(self, observations: Float[Tensor, "*shape o"]) -> Float[Tensor, "*shape c a"]:
        """All actions of a chunk, in the environment's units, with latent 0."""
        seen = self.scaled(observations).flatten(0, -2)
        actions = self.model(seen, seen.new_zeros(len(seen), self.model.shape.latent_dim))
        actions = actions * self.scaled_actions.std + self.scaled_actions.mean
        return actions.unflatten(0, observations.shape[:-1])

    def decide(
        self, observations: Float[Tensor, "*shape o"], noise: Float[Tensor, "*shape d"] | None
    ) -> Float[Tensor, "*shape d"]:
        """The actions of a chunk in a row, given standard normal noise; their means without."""
        mean = self._mean(observations)
        return mean if noise is None else gaussian.sample(mean, self._log_std(), noise)

    def actions(self, decisions: Float[Tensor, "*shape d"]) -> Float[Tensor, "*shape c a"]:
        """What is done of a decision, in turn."""
        return decisions.unflatten(-1, (self.chunk, self.sizes.action))

    def look(self, observations: Float[Tensor, "*shape o"], decisions: Float[Tensor, "*shape d"]) -> Normal:
        """What the policy thinks of these decisions."""
        return Normal(decisions, self._mean(observations), self._log_std())

    def imitation_loss(
        self, observations: Float[Tensor, "b o"], actions: Float[Tensor, "b c a"], mask: Bool[Tensor, "b c"]
    ) -> Float[Tensor, ""]:
        """L1 error of the chunk plus the divergence of the latent from a standard normal, summed over rows.

        The latent is drawn from the posterior by torch's own generator, which `fit` seeds. Actions are at unit scale.
        """
        seen, wanted = self.scaled(observations), (actions - self.scaled_actions.mean) / self.scaled_actions.std
        latent, divergence = seen.new_zeros(len(seen), self.model.shape.latent_dim), seen.new_zeros(())
        if self.model.shape.use_vae:
            mean, log_variance = self.model.posterior(seen, wanted, mask)
            latent = mean + (0.5 * log_variance).exp() * torch.randn_like(mean)
            divergence = 0.5 * (log_variance.exp() + mean.square() - 1.0 - log_variance).sum()
        error = (self.model(seen, latent) - wanted).abs().mean(-1)
        # a mean over the chunk's actions that there are, which weighs every row alike
        return ((error * mask).sum(1) / mask.sum(1)).sum() + self.kl_weight * divergence

    def measure(self, observations: Float[Tensor, "*shape o"], actions: Float[Tensor, "*shape a"]) -> None:
        """See and do what is like these at unit scale."""
        self.scaled.measure(observations)
        self.scaled_actions.measure(actions)

    def explore(self, log_std: float) -> None:
        """Draw actions with this deviation from now on."""
        nn.init.constant_(self.log_std, log_std)

    def save(self, folder: Path) -> None:
        """LeRobot's files, and what it has no place for; see arm/act_files.py."""
        weights = dict(self.model.state_dict())
        scales = {f"observation.{name}": value for name, value in self.scaled.state_dict().items()}
        scales |= {f"action.{name}": value for name, value in self.scaled_actions.state_dict().items()}
        log_std = self.log_std.detach()
        act_files.write(folder, ActFiles(self.model.shape, self.chunk, self.kl_weight, weights, scales, log_std))

    def _mean(self, observations: Tensor) -> Tensor:
        return self(observations)[..., : self.chunk, :].flatten(-2)

    def _log_std(self) -> Tensor:
        return self.log_std.repeat(self.chunk)


def new_act(sizes: Sizes, config: PolicyConfig) -> ActPolicy:
    """A fresh one; the whole observation is LeRobot's `observation.environment_state`."""
    shape = ActShape(
        state_sizes={"env": sizes.observation},
        action_size=sizes.action,
        chunk_size=config.chunk_size,
        dim_model=config.hidden_size,
        n_heads=config.num_heads,
        dim_feedforward=4 * config.hidden_size,
        n_encoder_layers=config.num_layers,
        n_decoder_layers=1,
        n_vae_encoder_layers=config.num_layers,
        latent_dim=config.latent_size,
    )
    return ActPolicy(shape, chunk=config.chunk_size, kl_weight=config.kl_weight, log_std=config.log_std)


def load_act(folder: Path, sizes: Sizes) -> ActPolicy:
    """A policy that this project or LeRobot saved, frozen; InputError where it is for another arm, or needs images."""
    found = act_files.read(folder)
    policy = ActPolicy(found.shape, chunk=found.chunk, kl_weight=found.kl_weight, log_std=0.0)
    for name in ("observation", "action"):
        theirs, ours = getattr(policy.sizes, name), getattr(sizes, name)
        if theirs != ours:
            raise InputError(f"{folder}: made for {theirs} numbers in each {name}, where this arm has {ours}")
    try:
        policy.model.load_state_dict(found.weights)
    except RuntimeError as error:
        raise InputError(f"{folder}: its weights are of another kind ({first_line(error)})") from error
    for scaled, name in ((policy.scaled, "observation"), (policy.scaled_actions, "action")):
        scaled.mean.copy_(found.scales[f"{name}.mean"])
        scaled.std.copy_(found.scales[f"{name}.std"].clamp(min=LEAST_STD))
    if found.log_std is not None:
        policy.log_std.data.copy_(found.log_std)
    return policy.requires_grad_(False).eval()
