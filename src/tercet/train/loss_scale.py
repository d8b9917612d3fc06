"""Loss scaling for training in fp16 (Micikevicius et al. 2018, arXiv:1710.03740, section 3.2).

fp16 has no number between 0 and 6e-8, and many gradients inside a network are smaller. So the loss is multiplied by a
large number before the backward pass, and the gradients are divided by it before anything looks at them. If one of
them has overflowed, the optimizer step is left out and the number is halved; after many steps in a row without an
overflow it is doubled. It is a power of two, so that it rounds nothing by itself.

The rule is that of `torch.amp.GradScaler`. Here an overflow shows in the norm of the gradients of all ranks, divided
ones included, so that all ranks decide alike, on every device.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from tercet.errors import FailedError
from tercet.train.sharding import own_part

FIRST = 2.0**16  # this and the next are the defaults of torch.amp.GradScaler
STEPS_TO_DOUBLE = 2000
LARGEST = "fp16 holds no number above 65504"


@dataclass
class LossScale:
    """The current scale, the steps in a row without an overflow, and the number of steps that were left out."""

    value: float = FIRST
    num_good: int = 0
    num_skipped: int = 0

    def up(self, loss: Float[Tensor, ""]) -> Float[Tensor, ""]:
        """Multiply a loss by the scale, for its backward pass."""
        return loss * self.value

    @torch.no_grad()
    def down(self, gradients: Sequence[Tensor]) -> None:
        """Divide gradients by the scale, in place."""
        for gradient in gradients:
            own_part(gradient).mul_(1.0 / self.value)

    def takes_step(self, norm: float) -> bool:
        """Return True if the optimizer may take its step: the norm of the gradients of all ranks is finite.

        Adapt the scale. Raise FailedError if gradients overflow although they are no longer scaled.
        """
        if math.isfinite(norm):
            self.num_good += 1
            if self.num_good == STEPS_TO_DOUBLE:
                self.value, self.num_good = 2.0 * self.value, 0
            return True
        self.value, self.num_good, self.num_skipped = self.value / 2.0, 0, self.num_skipped + 1
        if self.value < 1.0:
            raise FailedError(
                f"the gradient's norm is {norm} in fp16, also without a loss scale: numbers of this model are larger "
                "than fp16 holds (65504); set precision=bf16 or fp32, lower the learning rate, or check the data"
            )
        return False
