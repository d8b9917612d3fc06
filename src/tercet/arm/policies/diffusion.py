"""Actions by denoising, as in RDT (Liu et al. 2024): noise is turned into a chunk of actions."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tercet.arm.networks.sizes import Sizes
from tercet.arm.policies.chain import NUM_STEPS, ChainPolicy

NUM_NOISES = 10  # noise levels in training; the steps of a decision pass over every other


class DiffusionPolicy(ChainPolicy):
    """The network predicts the clean actions."""

    kind, num_levels = "diffusion", NUM_NOISES
    shares: Tensor

    def __init__(self, sizes: Sizes, *, hidden_size: int, num_layers: int, chunk_size: int, log_std: float) -> None:
        super().__init__(sizes, hidden_size=hidden_size, num_layers=num_layers, chunk_size=chunk_size, log_std=log_std)
        self.register_buffer("shares", signal_shares(NUM_NOISES), persistent=False)

    def step_mean(
        self, scaled: Float[Tensor, "*shape o"], noised: Float[Tensor, "*shape w"], step: int
    ) -> Float[Tensor, "*shape w"]:
        """Return the mean of a denoising step (Song et al. 2021, eq. 12)."""
        level = _LEVELS[step]
        clean = self.predict(scaled, noised, torch.full(noised.shape[:-1], level, device=noised.device))
        share, following = self.shares[level], self._following(step)
        direction = (noised - share.sqrt() * clean) / (1 - share).sqrt()
        rest = (1 - following - self.step_stds()[step] ** 2).clamp(min=0.0)
        return following.sqrt() * clean + rest.sqrt() * direction

    def step_stds(self) -> Float[Tensor, " k"]:
        """Return the standard deviation of each step, as in the forward process (eta = 1); 0 in the last step."""
        share = self.shares[list(_LEVELS)]
        following = torch.stack([self._following(step) for step in range(NUM_STEPS)])
        return ((1 - following) / (1 - share) * (1 - share / following)).sqrt()

    def errors(
        self, scaled: Float[Tensor, "b o"], clean: Float[Tensor, "b w"], levels: Int[Tensor, " b"], noise: Tensor
    ) -> Float[Tensor, "b w"]:
        """Return the squared errors of the clean actions."""
        share = self.shares[levels][:, None]
        noised = share.sqrt() * clean + (1 - share).sqrt() * noise
        return (self.predict(scaled, noised, levels) - clean).square()

    def _following(self, step: int) -> Tensor:
        """Return the share of signal after this step; 1 after the last."""
        return self.shares[_LEVELS[step + 1]] if step + 1 < NUM_STEPS else self.shares.new_ones(())


_LEVELS = range(NUM_NOISES - 1, -1, -(NUM_NOISES // NUM_STEPS))  # noise level before each denoising step


def signal_shares(num: int) -> Float[Tensor, " n"]:
    """Return the share of signal in the variance per level: the cosine schedule (Nichol and Dhariwal 2021, eq. 17)."""
    times = torch.arange(num + 1).double() / num
    shares = torch.cos((times + 0.008) / 1.008 * torch.pi / 2).square()
    steps = (shares[1:] / shares[:-1]).clamp(min=1e-3)  # the bound of the paper: no step removes all signal
    return steps.cumprod(0).float()
