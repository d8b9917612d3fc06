"""Actions by denoising, as in RDT (Liu et al. 2024): noise is turned into a chunk of actions.

For PPO a decision is the whole chain from noise to actions (DPPO, Ren et al. 2024). Each step of it is drawn from a
Gaussian, so the log-probability of the chain is a sum, as for the tokens of a response. At ratio 1 its gradient is that
of DPPO's inner MDP if every step has the advantage of the decision. The ratio of the whole chain is clipped.
"""

from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from tercet.arm.policies.distributions import Normal
from tercet.arm.policies.files import load_weights, read_config, save_model
from tercet.arm.policies.layers import Scaled, perceptron
from tercet.arm.policies.policy import Policy, Sizes
from tercet.config.arm import PolicyConfig

NUM_NOISES = 10  # noise levels in training
NUM_STEPS = 5  # denoising steps of a decision, over every other level
TIME_SIZE = 16


class DiffusionPolicy(Policy):
    """A perceptron that predicts the clean actions. A decision is [noise, less noise, ..., actions]."""

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
        """Sample the chain of a decision from standard normal noise; without noise, start at 0 and take the means."""
        draws = [] if noise is None else list(noise.split(self.width, -1))
        start = observations.new_zeros(*observations.shape[:-1], self.width)
        chain, scaled = [draws[0] if draws else start], self.scaled(observations)
        for step in range(NUM_STEPS):
            mean = self._mean(scaled, chain[-1], step)
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
        means = [self._mean(scaled, chain[step], step) for step in range(NUM_STEPS)]
        return Normal(decisions[..., self.width :], torch.cat(means, -1), self._log_stds().flatten(), NUM_STEPS)

    def imitation_loss(
        self,
        observations: Float[Tensor, "b o"],
        actions: Float[Tensor, "b c a"],
        mask: Bool[Tensor, "b c"],
        *pictures: Tensor,
    ) -> Float[Tensor, ""]:
        """Return the squared error of the prediction: mean over the existing actions, sum over rows.

        Noise levels and noise are drawn by torch's global generator, which `fit` seeds.
        """
        # the network reads the whole chunk, so hide actions after an end
        clean = (actions * mask[..., None]).flatten(1)
        levels = torch.randint(NUM_NOISES, (len(clean),)).to(clean.device)
        share = self.shares[levels][:, None]
        noised = share.sqrt() * clean + (1 - share).sqrt() * torch.randn(clean.shape).to(clean)
        predicted = self._predict(self.scaled(observations), noised, levels)
        error = (predicted - clean).square().unflatten(1, actions.shape[1:]).mean(-1)
        return ((error * mask).sum(1) / mask.sum(1)).sum()

    def explore(self, log_std: float) -> None:
        """Set the log standard deviation of the noise that is added to every denoising step, the last included."""
        nn.init.constant_(self.log_std, log_std)

    def save(self, folder: Path) -> None:
        """Write config.json and model.safetensors."""
        save_model(self, folder, {"kind": "diffusion", **self.sizes.numbers(), **self.shape})

    def _predict(self, scaled: Tensor, noised: Tensor, levels: Int[Tensor, "*shape"]) -> Tensor:
        """Predict the clean actions."""
        return self.net(torch.cat([scaled, noised, self.level_embed(levels)], -1))

    def _mean(self, scaled: Float[Tensor, "*shape o"], noised: Float[Tensor, "*shape w"], step: int) -> Tensor:
        """Return the mean of a denoising step (Song et al. 2021, eq. 12)."""
        level = _LEVELS[step]
        clean = self._predict(scaled, noised, torch.full(noised.shape[:-1], level, device=noised.device))
        share, following = self.shares[level], self._following(step)
        direction = (noised - share.sqrt() * clean) / (1 - share).sqrt()
        rest = (1 - following - self._step_stds()[step] ** 2).clamp(min=0.0)
        return following.sqrt() * clean + rest.sqrt() * direction

    def _following(self, step: int) -> Tensor:
        """Return the share of signal after this step; 1 after the last."""
        return self.shares[_LEVELS[step + 1]] if step + 1 < NUM_STEPS else self.shares.new_ones(())

    def _step_stds(self) -> Float[Tensor, " k"]:
        """Return the standard deviation of each step, as in the forward process (eta = 1); 0 in the last step."""
        share = self.shares[list(_LEVELS)]
        following = torch.stack([self._following(step) for step in range(NUM_STEPS)])
        return ((1 - following) / (1 - share) * (1 - share / following)).sqrt()

    def _log_stds(self) -> Float[Tensor, "k w"]:
        """Return the log standard deviation of each step and action: its own noise plus that of exploration."""
        variance = self._step_stds()[:, None].square() + (2 * self.log_std).exp().repeat(self.chunk)
        return 0.5 * variance.log()


_LEVELS = range(NUM_NOISES - 1, -1, -(NUM_NOISES // NUM_STEPS))  # noise level before each denoising step


def signal_shares(num: int) -> Float[Tensor, " n"]:
    """Return the share of signal in the variance per level: the cosine schedule (Nichol and Dhariwal 2021, eq. 17)."""
    times = torch.arange(num + 1).double() / num
    shares = torch.cos((times + 0.008) / 1.008 * torch.pi / 2).square()
    steps = (shares[1:] / shares[:-1]).clamp(min=1e-3)  # the bound of the paper: no step removes all signal
    return steps.cumprod(0).float()


def new_diffusion(sizes: Sizes, config: PolicyConfig) -> DiffusionPolicy:
    """Create a policy."""
    return DiffusionPolicy(
        sizes,
        hidden_size=config.hidden_size,
        num_layers=config.num_layers,
        chunk_size=config.chunk_size,
        log_std=config.log_std,
    )


def load_diffusion(folder: Path, sizes: Sizes) -> DiffusionPolicy:
    """Load a saved policy and freeze it. Raises InputError if `folder` holds none, or one with other sizes."""
    shape = read_config(folder, "diffusion", ("hidden_size", "num_layers", "chunk_size"), **sizes.numbers())
    return load_weights(DiffusionPolicy(sizes, log_std=0.0, **shape), folder)
