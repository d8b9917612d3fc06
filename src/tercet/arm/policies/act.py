"""ACT (Zhao et al. 2023): a chunk of actions at a time, from a transformer that is learned as a conditional VAE.

For PPO it is a Gaussian over the actions of a chunk that are executed, around the network's with latent 0: one decision
a chunk.

It may see pictures beside the observation, which then may hold more than the policy looks at: `own` names the entries
that it does.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor, nn

from tercet.arm.policies import act_files
from tercet.arm.policies.act_files import ActFiles
from tercet.arm.policies.act_network import AT_ONCE, ActNetwork, ActShape
from tercet.arm.policies.distributions import Normal
from tercet.arm.policies.resnet import load_backbone
from tercet.arm.policies.roles import Policy, Scaled, Sizes
from tercet.arm.sim.cameras import cameras_of
from tercet.config.arm import PolicyConfig
from tercet.core import gaussian
from tercet.errors import InputError, first_line


class ActPolicy(Policy):
    """A Gaussian over the first `chunk` actions of the network's; `log_std` is one number for each joint."""

    def __init__(
        self, shape: ActShape, *, chunk: int, kl_weight: float, log_std: float, own: Bool[Tensor, " o"] | None = None
    ) -> None:
        super().__init__()
        self.own, self.cameras, self.sees_itself = own, shape.cameras, own is not None
        self.settles = False  # whether the backbone was drawn at random, and has seen no picture yet
        num_seen = sum(shape.state_sizes.values())
        self.sizes = Sizes(num_seen if own is None else len(own), shape.action_size)
        self.chunk, self.kl_weight = chunk, kl_weight
        self.noise_size = chunk * shape.action_size
        self.model = ActNetwork(shape)
        # LeRobot lets an observation count however far from its mean it lies
        self.scaled = Scaled(self.sizes.observation, farthest=math.inf)
        self.scaled_actions = Scaled(shape.action_size)
        self.scaled_pictures = nn.ModuleList(Scaled(3, farthest=math.inf) for _ in shape.cameras)
        self.log_std = nn.Parameter(torch.full((shape.action_size,), log_std))

    def forward(
        self, observations: Float[Tensor, "*shape o"], *pictures: UInt8[Tensor, "*shape _ _ 3"]
    ) -> Float[Tensor, "*shape c a"]:
        """All actions of a chunk, in the environment's units, with latent 0."""
        seen = self._state(observations).flatten(0, -2)
        looks = self._looks(pictures)
        actions = self.model(seen, seen.new_zeros(len(seen), self.model.shape.latent_dim), looks)
        actions = actions * self.scaled_actions.std + self.scaled_actions.mean
        return actions.unflatten(0, observations.shape[:-1])

    def decide(
        self,
        observations: Float[Tensor, "*shape o"],
        noise: Float[Tensor, "*shape d"] | None,
        *pictures: UInt8[Tensor, "*shape _ _ 3"],
    ) -> Float[Tensor, "*shape d"]:
        """The actions of a chunk in a row, given standard normal noise; their means without."""
        mean = self._mean(observations, pictures)
        return mean if noise is None else gaussian.sample(mean, self._log_std(), noise)

    def actions(self, decisions: Float[Tensor, "*shape d"]) -> Float[Tensor, "*shape c a"]:
        """What is done of a decision, in turn."""
        return decisions.unflatten(-1, (self.chunk, self.sizes.action))

    def look(
        self,
        observations: Float[Tensor, "*shape o"],
        decisions: Float[Tensor, "*shape d"],
        *pictures: UInt8[Tensor, "*shape _ _ 3"],
    ) -> Normal:
        """What the policy thinks of these decisions."""
        return Normal(decisions, self._mean(observations, pictures), self._log_std())

    def imitation_loss(
        self,
        observations: Float[Tensor, "b o"],
        actions: Float[Tensor, "b c a"],
        mask: Bool[Tensor, "b c"],
        *pictures: UInt8[Tensor, "b _ _ 3"],
    ) -> Float[Tensor, ""]:
        """L1 error of the chunk plus the divergence of the latent from a standard normal, summed over rows.

        The latent is drawn from the posterior by torch's own generator, which `fit` seeds. Actions are at unit scale.
        """
        seen, wanted = self._state(observations), (actions - self.scaled_actions.mean) / self.scaled_actions.std
        latent, divergence = seen.new_zeros(len(seen), self.model.shape.latent_dim), seen.new_zeros(())
        if self.model.shape.use_vae:
            mean, log_variance = self.model.posterior(seen, wanted, mask)
            latent = mean + (0.5 * log_variance).exp() * torch.randn_like(mean)
            divergence = 0.5 * (log_variance.exp() + mean.square() - 1.0 - log_variance).sum()
        error = (self.model(seen, latent, self._looks(pictures)) - wanted).abs().mean(-1)
        # a mean over the chunk's actions that there are, which weighs every row alike
        return ((error * mask).sum(1) / mask.sum(1)).sum() + self.kl_weight * divergence

    def measure(
        self,
        observations: Float[Tensor, "*shape o"],
        actions: Float[Tensor, "*shape a"],
        *pictures: UInt8[Tensor, "b _ _ 3"],
    ) -> None:
        """See and do what is like these at unit scale."""
        self.scaled.measure(observations)
        self.scaled_actions.measure_known(actions)
        self.measure_pictures(*pictures)

    def measure_pictures(self, *pictures: UInt8[Tensor, "b _ _ 3"]) -> None:
        """See pictures like these at unit scale, and let a backbone that was drawn at random settle on them."""
        some = [one[:: -(-len(one) // AT_ONCE)] for one in pictures]  # evenly, whatever their number
        for scaled, picture in zip(self.scales_of_pictures(), some, strict=True):
            scaled.measure_known(picture / 255)
        if pictures and self.settles:
            self.model.backbone.settle(torch.cat(self._looks(some)))

    def scales_of_pictures(self) -> list[Scaled]:
        """Of each camera, in their order."""
        return [cast(Scaled, scaled) for scaled in self.scaled_pictures]

    def explore(self, log_std: float) -> None:
        """Draw actions with this deviation from now on."""
        nn.init.constant_(self.log_std, log_std)

    def save(self, folder: Path) -> None:
        """LeRobot's files, and what it has no place for; see arm/policies/act_files.py."""
        weights = dict(self.model.state_dict())
        scales = {f"observation.{name}": value for name, value in self.scaled.state_dict().items()}
        scales |= {f"action.{name}": value for name, value in self.scaled_actions.state_dict().items()}
        log_std = self.log_std.detach()
        for camera, scaled in zip(self.cameras, self.scales_of_pictures(), strict=True):
            scales |= {f"{act_files.feature_of(camera)}.{name}": value for name, value in scaled.state_dict().items()}
        files = ActFiles(self.model.shape, self.chunk, self.kl_weight, weights, scales, log_std, self.own)
        act_files.write(folder, files)

    def _mean(self, observations: Tensor, pictures: Sequence[Tensor]) -> Tensor:
        return self(observations, *pictures)[..., : self.chunk, :].flatten(-2)

    def _state(self, observations: Float[Tensor, "*shape o"]) -> Float[Tensor, "*shape s"]:
        seen = self.scaled(observations)
        return seen if self.own is None else seen[..., self.own]

    def _looks(self, pictures: Sequence[Tensor]) -> list[Float[Tensor, "b 3 h w"]]:
        """Each camera's pictures at unit scale, as the backbone takes them."""
        rows = [one.flatten(0, -4) for one in pictures]
        return [
            scaled(row / 255).permute(0, 3, 1, 2) for row, scaled in zip(rows, self.scales_of_pictures(), strict=True)
        ]

    def _log_std(self) -> Tensor:
        return self.log_std.repeat(self.chunk)


def new_act(sizes: Sizes, config: PolicyConfig) -> ActPolicy:
    """A fresh one.

    What the arm measures on itself is LeRobot's `observation.state`, the rest its `observation.environment_state`.
    """
    own = None
    if config.sees == "itself":
        if not any(sizes.own):
            raise InputError("policy.sees=itself: only this arm's own tasks tell which entries it measures on itself")
        own = torch.tensor(sizes.own)
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
    policy.settles = bool(config.cameras) and not config.backbone
    if config.cameras and config.backbone:
        load_backbone(policy.model.backbone, Path(config.backbone))
    return policy


def _state_sizes(sizes: Sizes) -> dict[str, int]:
    """How an observation is divided between LeRobot's two states; its ACT needs both where there are no pictures.

    What an arm measures on itself stands first. Where that is not known, it is the first half.
    """
    num_own = sum(sizes.own) if any(sizes.own) else sizes.observation // 2
    assert all(sizes.own[:num_own]), "what the arm measures on itself must stand first"
    parts = {"robot": num_own, "env": sizes.observation - num_own}
    return {name: size for name, size in parts.items() if size}


def load_act(folder: Path, sizes: Sizes) -> ActPolicy:
    """A policy that this project or LeRobot saved, frozen; InputError where it is for another arm."""
    found = act_files.read(folder)
    policy = ActPolicy(found.shape, chunk=found.chunk, kl_weight=found.kl_weight, log_std=0.0, own=found.own)
    for name in ("observation", "action"):
        theirs, ours = getattr(policy.sizes, name), getattr(sizes, name)
        if theirs != ours:
            raise InputError(f"{folder}: made for {theirs} numbers in each {name}, where this arm has {ours}")
    try:
        policy.model.load_state_dict(found.weights)
    except RuntimeError as error:
        raise InputError(f"{folder}: its weights are of another kind ({first_line(error)})") from error
    of_pictures = zip(policy.scales_of_pictures(), map(act_files.feature_of, policy.cameras), strict=True)
    for scaled, name in ((policy.scaled, "observation"), (policy.scaled_actions, "action"), *of_pictures):
        scaled.mean.copy_(found.scales[f"{name}.mean"])
        scaled.std.copy_(found.scales[f"{name}.std"])
    if found.log_std is not None:
        policy.log_std.data.copy_(found.log_std)
    return policy.requires_grad_(False).eval()
