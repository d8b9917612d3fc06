"""The product with a frozen matrix and its low-rank adapter (Hu et al. 2021), with the sums inside the matrix products.

x W^T + s (x A^T) B^T as four operations reads and writes the activations four times. Here the low-rank part is added
inside the product, forward and backward.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import linear


def adapted_product(
    x: Float[Tensor, "*b i"],
    weight: Float[Tensor, "o i"],
    bias: Float[Tensor, " o"] | None,
    down: Float[Tensor, "r i"],
    up: Float[Tensor, "o r"],
    *,
    scale: float,
) -> Float[Tensor, "*b o"]:
    """Return x W^T + b + s (x A^T) B^T with A = `down` and B = `up`; `weight` and `bias` get no gradient.

    A frozen `weight` of 16 bits is kept as it is for backward, and becomes the type of x only while it is used.
    """
    product, _ = _Product.apply(x.reshape(-1, x.shape[-1]), weight, bias, down, up, scale)
    return product.view(*x.shape[:-1], product.shape[-1])


class _Product(torch.autograd.Function):
    """y = x W^T + b + s h B^T with h = x A^T; W gets no gradient.

    With g the gradient of y and k = s g B: dx = g W + k A, dA = k^T x, dB = s g^T h.
    """

    @staticmethod
    def forward(
        x: Float[Tensor, "n i"],
        weight: Float[Tensor, "o i"],
        bias: Float[Tensor, " o"] | None,
        down: Float[Tensor, "r i"],
        up: Float[Tensor, "o r"],
        scale: float,
    ) -> tuple[Float[Tensor, "n o"], Float[Tensor, "n r"]]:
        hidden = x @ down.T
        bias = None if bias is None else bias.to(x.dtype)
        return linear(x, weight.to(x.dtype), bias).addmm_(hidden, up.T, alpha=scale), hidden

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:  # torch does not type ctx, inputs and output
        x, weight, _, down, up, ctx.scale = inputs
        ctx.save_for_backward(x, weight, down, up, output[1])
        ctx.mark_non_differentiable(output[1])

    @staticmethod
    def backward(ctx, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, down, up, hidden = ctx.saved_tensors
        grad = grads[0]
        low = (grad @ up).mul_(ctx.scale)
        grad_x = (grad @ weight.to(grad.dtype)).addmm_(low, down) if ctx.needs_input_grad[0] else None
        return grad_x, None, None, low.T @ x, (grad.T @ hidden).mul_(ctx.scale), None
