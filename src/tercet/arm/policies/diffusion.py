"""Actions by denoising, in the manner of RDT (Liu et al. 2024): what is left of noise is a chunk of actions.

For PPO a decision is the whole chain from noise to actions (Ren et al. 2024, DPPO): each step of it is drawn from a
Gaussian, so that the log-probability of the chain is a sum, as that of an answer's tokens is. At ratio 1 its gradient
is that of DPPO's inner MDP with every step given the decision's advantage; the ratio is clipped for the whole chain.
"""

from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from tercet.arm.policies.distributions import Normal
from tercet.arm.policies.roles import Policy, Scaled, Sizes, filled, perceptron, read_config, save
from tercet.config.arm import PolicyConfig

NUM_NOISES = 10  # levels of noise that are learned from
NUM_STEPS = 5  # denoising steps of a decision, over every other level
TIME_SIZE = 16


class DiffusionPolicy(Policy):
    """A perceptron that guesses the actions under the noise; a decision is [noise, less noise, ..., actions]."""

    shares: Tensor

    def __init__(self, sizes: Sizes, *, hidden_size: int, num_layers: int, chunk_size: int, log_std: float) -> None:
        super().__init__()
        self.sizes, self.chunk = sizes, chunk_size
        self.shape = {"hidden_size": hidden_size, "num_layers": num_layers, "chunk_size": chunk_size}
        self.width = chunk_size * sizes.action
        self.noise_size = (NUM_STEPS + 1) * self.width
        self.scaled = Scaled(sizes.observation)
        self.net = perceptron(
            sizes.observation + self.width + TIME_SIZE, self.width, hidden_size, num_layers, gain=0.01
        )
        self.level_embed = nn.Embedding(NUM_NOISES, TIME_SIZE)
        self.log_std = nn.Parameter(torch.full((sizes.action,), log_std))
        self.register_buffer("shares", signal_shares(NUM_NOISES), persistent=False)

    def decide(
        self, observations: Float[Tensor, "*shape o"], noise: Float[Tensor, "*shape d"] | None, *pictures: Tensor
    ) -> Float[Tensor, "*shape d"]:
        """The chain of a decision, given standard normal noise; without, from the middle of the noise and by means."""
        draws = [] if noise is None else list(noise.split(self.width, -1))
        start = observations.new_zeros(*observations.shape[:-1], self.width)
        chain, seen = [draws[0] if draws else start], self.scaled(observations)
        for step in range(NUM_STEPS):
            mean = self._mean(seen, chain[-1], step)
            chain.append(mean + self._log_stds()[step].exp() * draws[step + 1] if draws else mean)
        return torch.cat(chain, -1)

    def actions(self, decisions: Float[Tensor, "*shape d"]) -> Float[Tensor, "*shape c a"]:
        """The end of the chain."""
        return decisions[..., -self.width :].unflatten(-1, (self.chunk, self.sizes.action))

    def look(
        self, observations: Float[Tensor, "*shape o"], decisions: Float[Tensor, "*shape d"], *pictures: Tensor
    ) -> Normal:
        """What the policy thinks of these chains; the noise that each began with is not its own doing."""
        seen, chain = self.scaled(observations), decisions.split(self.width, -1)
        means = [self._mean(seen, chain[step], step) for step in range(NUM_STEPS)]
        return Normal(decisions[..., self.width :], torch.cat(means, -1), self._log_stds().flatten())

    def imitation_loss(
        self,
        observations: Float[Tensor, "b o"],
        actions: Float[Tensor, "b c a"],
        mask: Bool[Tensor, "b c"],
        *pictures: Tensor,
    ) -> Float[Tensor, ""]:
        """Squared error of the guess, averaged over the actions that there are and summed over rows.

        Levels and noise are drawn by torch's own generator, which `fit` seeds.
        """
        clean = (actions * mask[..., None]).flatten(1)  # the net reads the whole chunk: nothing from behind an end
        levels = torch.randint(NUM_NOISES, (len(clean),), device=clean.device)
        share = self.shares[levels][:, None]
        noised = share.sqrt() * clean + (1 - share).sqrt() * torch.randn_like(clean)
        guess = self._guess(self.scaled(observations), noised, levels)
        error = (guess - clean).square().unflatten(1, actions.shape[1:]).mean(-1)
        return ((error * mask).sum(1) / mask.sum(1)).sum()

    def explore(self, log_std: float) -> None:
        """Add noise of this deviation to every denoising step from now on, the last one's included."""
        nn.init.constant_(self.log_std, log_std)

    def save(self, folder: Path) -> None:
        """config.json and model.safetensors."""
        save(self, folder, {"kind": "diffusion", **self.sizes.numbers(), **self.shape})

    def _guess(self, seen: Tensor, noised: Tensor, levels: Int[Tensor, "*shape"]) -> Tensor:
        """The actions under the noise."""
        return self.net(torch.cat([seen, noised, self.level_embed(levels)], -1))

    def _mean(self, seen: Float[Tensor, "*shape o"], noised: Float[Tensor, "*shape w"], step: int) -> Tensor:
        """The mean of what a denoising step leads to, given the guess (Song et al. 2021, eq. 12)."""
        level = _LEVELS[step]
        clean = self._guess(seen, noised, torch.full(noised.shape[:-1], level))
        share, following = self.shares[level], self._following(step)
        direction = (noised - share.sqrt() * clean) / (1 - share).sqrt()
        rest = (1 - following - self._own_stds()[step] ** 2).clamp(min=0.0)
        return following.sqrt() * clean + rest.sqrt() * direction

    def _following(self, step: int) -> Tensor:
        """The share of signal after that step; 1 after the last."""
        return self.shares[_LEVELS[step + 1]] if step + 1 < NUM_STEPS else self.shares.new_ones(())

    def _own_stds(self) -> Float[Tensor, " k"]:
        """The deviation of each step's own noise, as much as in the forward process (eta = 1); 0 in the last."""
        share = self.shares[list(_LEVELS)]
        following = torch.stack([self._following(step) for step in range(NUM_STEPS)])
        return ((1 - following) / (1 - share) * (1 - share / following)).sqrt()

    def _log_stds(self) -> Float[Tensor, "k w"]:
        """Of each step and action: its own noise and that of exploring together."""
        variance = self._own_stds()[:, None].square() + (2 * self.log_std).exp().repeat(self.chunk)
        return 0.5 * variance.log()


_LEVELS = range(NUM_NOISES - 1, -1, -(NUM_NOISES // NUM_STEPS))  # of the noise before each denoising step


def signal_shares(num: int) -> Float[Tensor, " n"]:
    """The signal's share of the variance at each level: the cosine schedule (Nichol and Dhariwal 2021, eq. 17)."""
    times = torch.arange(num + 1).double() / num
    shares = torch.cos((times + 0.008) / 1.008 * torch.pi / 2).square()
    steps = (shares[1:] / shares[:-1]).clamp(min=1e-3)  # the schedule's own bound: no step takes off all signal
    return steps.cumprod(0).float()


def new_diffusion(sizes: Sizes, config: PolicyConfig) -> DiffusionPolicy:
    """A fresh one."""
    return DiffusionPolicy(
        sizes,
        hidden_size=config.hidden_size,
        num_layers=config.num_layers,
        chunk_size=config.chunk_size,
        log_std=config.log_std,
    )


def load_diffusion(folder: Path, sizes: Sizes) -> DiffusionPolicy:
    """A saved one, frozen; InputError where it is none, or one for another arm."""
    shape = read_config(folder, "diffusion", observation=sizes.observation, action=sizes.action)
    return filled(DiffusionPolicy(sizes, log_std=0.0, **shape), folder)
