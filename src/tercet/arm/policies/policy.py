"""The interface of every policy."""

from pathlib import Path

import torch
from jaxtyping import Bool, Float, Shaped, UInt8
from torch import Tensor, nn

from tercet.arm.networks.layers import Scaled
from tercet.arm.networks.sizes import Sizes
from tercet.arm.policies.distributions import Distribution
from tercet.arm.sim.cameras import Camera


class Policy(nn.Module):
    """The interface of every kind of policy. Imitation, PPO, evaluation and the real arm use nothing else.

    A policy decides on `chunk` actions at a time. A decision is a row of `d` numbers or tokens. Pictures are uint8
    tensors (..., height, width, 3), one for each of the `cameras`, in their order; a policy without cameras gets none.
    `decide` and `distribution` take what `look` makes of them. CONTRIBUTING.md says how to add a kind.
    """

    sizes: Sizes
    scaled: Scaled  # of observations; the critic starts with the same scale
    noise_size: int  # standard normal numbers from which a decision is drawn
    chunk: int = 1
    cameras: tuple[Camera, ...] = ()
    num_features: int = 0  # that `look` returns, if it returns features
    sees_itself: bool = False  # True if it needs no entries about cube and goal
    blind: bool = False  # True if it sees pictures alone, and no numbers of an observation
    reads: bool = False  # True if it reads the sentence of an instruction, and not what follows from it

    @property
    def device(self) -> torch.device:
        """Device of the weights, on which the methods take their tensors."""
        return self.scaled.mean.device

    def look(self, *pictures: UInt8[Tensor, "*shape _ _ 3"]) -> tuple[Tensor, ...]:
        """Return what a decision needs of the pictures, which PPO keeps: the pictures themselves, or features."""
        return pictures

    def decide(
        self, observations: Float[Tensor, "*shape o"], noise: Float[Tensor, "*shape z"] | None, *pictures: Tensor
    ) -> Shaped[Tensor, "*shape d"]:
        """Draw a decision for each observation from standard normal noise; without noise take the most likely one."""
        raise NotImplementedError

    def actions(self, decisions: Shaped[Tensor, "*shape d"]) -> Float[Tensor, "*shape c a"]:
        """Return the actions of each decision, in their order."""
        raise NotImplementedError

    def distribution(
        self, observations: Float[Tensor, "*shape o"], decisions: Shaped[Tensor, "*shape d"], *pictures: Tensor
    ) -> Distribution:
        """Return the distribution from which each decision would be drawn now. PPO takes log-probabilities from it."""
        raise NotImplementedError

    def imitation_loss(
        self,
        observations: Float[Tensor, "b o"],
        actions: Float[Tensor, "b c a"],
        mask: Bool[Tensor, "b c"],
        *pictures: Tensor,
    ) -> Float[Tensor, ""]:
        """Return the loss of behaviour cloning, summed over rows; actions count where `mask` is True."""
        raise NotImplementedError

    def measure(
        self, observations: Float[Tensor, "*shape o"], actions: Float[Tensor, "*shape a"], *pictures: Tensor
    ) -> None:
        """Set the scale from demonstrations, before the policy is cloned from them."""
        self.scaled.measure(observations)

    def measure_pictures(self, *pictures: Tensor) -> None:
        """Set the scale of pictures, if there are no demonstrations."""

    def explore(self, log_std: float) -> None:
        """Set the log standard deviation of exploration, and freeze what PPO does not train. Called before PPO."""
        raise NotImplementedError

    def save(self, folder: Path) -> None:
        """Write config.json, with the key `kind`, and the weights."""
        raise NotImplementedError
