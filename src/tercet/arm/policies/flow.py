"""Actions by flow matching (Lipman et al. 2023), the head of pi0 (Black et al. 2024) and SmolVLA (Shukor et al. 2025).

A velocity carries noise at time 0 to actions at time 1, in Euler steps. The network predicts the actions, from which
the velocity follows, and the loss is that of the velocity (Li and He 2025): a perceptron that predicts the velocity has
to copy the noise, and learns slowly.

A flow alone has no density that PPO could use. So noise of standard deviation exp(log_std) is added in each step of a
sampled decision, as in ReinFlow (Zhang et al. 2025). Its deviation is learned, one number per joint.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tercet.arm.policies.chain import NUM_STEPS, ChainPolicy


class FlowPolicy(ChainPolicy):
    """The network predicts the clean actions. The noise level of a step is its number k; its time is k / NUM_STEPS."""

    kind, num_levels = "flow", NUM_STEPS

    def step_mean(
        self, scaled: Float[Tensor, "*shape o"], noised: Float[Tensor, "*shape w"], step: int
    ) -> Float[Tensor, "*shape w"]:
        """Return the actions after an Euler step."""
        clean = self.predict(scaled, noised, torch.full(noised.shape[:-1], step, device=noised.device))
        velocity = (clean - noised) / (1 - step / NUM_STEPS)
        return noised + velocity / NUM_STEPS

    def step_stds(self) -> Float[Tensor, " k"]:
        """Return 0: a flow adds no noise of its own."""
        return self.log_std.new_zeros(NUM_STEPS)

    def errors(
        self, scaled: Float[Tensor, "b o"], clean: Float[Tensor, "b w"], levels: Int[Tensor, " b"], noise: Tensor
    ) -> Float[Tensor, "b w"]:
        """Return the squared errors of the velocity on the straight line from noise to actions."""
        times = levels[:, None] / NUM_STEPS
        noised = torch.lerp(noise, clean, times)
        velocity = (self.predict(scaled, noised, levels) - noised) / (1 - times)
        return (velocity - (clean - noise)).square()
