"""The product with a low-rank adapter: by hand, against four operations, and its gradient."""

import torch
from torch import Tensor

from tercet.core.low_rank import adapted_product


def given(*shape: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    chance = torch.Generator().manual_seed(2)
    shapes = [shape, (5, 4), (5,), (2, 4), (5, 2)]
    return [torch.randn(one, generator=chance, dtype=dtype) for one in shapes]


def test_a_small_product_by_hand() -> None:
    x, weight, bias = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 4.0]]), torch.tensor([10.0])
    down, up = torch.tensor([[5.0, 6.0]]), torch.tensor([[7.0]])
    # 3 + 8 + 10, and half of 7 times 5 + 12
    assert adapted_product(x, weight, bias, down, up, scale=0.5).tolist() == [[21.0 + 0.5 * 7 * 17]]


def test_it_equals_four_operations_in_any_shape() -> None:
    for shape in ((4,), (3, 4), (2, 3, 4)):
        x, weight, bias, down, up = given(*shape)
        expected = x @ weight.T + bias + 0.7 * (x @ down.T) @ up.T
        torch.testing.assert_close(adapted_product(x, weight, bias, down, up, scale=0.7), expected)
        without = adapted_product(x, weight, None, down, up, scale=0.7)
        torch.testing.assert_close(without, expected - bias)


def test_the_gradient_equals_finite_differences() -> None:
    tensors = given(3, 4)
    for number in (0, 3, 4):
        tensors[number].requires_grad_()
    assert torch.autograd.gradcheck(lambda *one: adapted_product(*one, scale=0.7), tuple(tensors))


def test_the_frozen_weights_get_no_gradient_and_an_input_need_not_have_one() -> None:
    x, weight, bias, down, up = given(3, 4)
    for one in (weight, bias, down, up):
        one.requires_grad_()
    adapted_product(x, weight, bias, down, up, scale=1.0).sum().backward()
    assert weight.grad is None and bias.grad is None and down.grad is not None and up.grad is not None


def test_a_frozen_weight_of_16_bits_gives_what_its_values_give_in_32() -> None:
    x, weight, bias, down, up = given(3, 4, dtype=torch.float32)
    half = weight.bfloat16()
    tensors = [x.requires_grad_(), down.requires_grad_(), up.requires_grad_()]
    results = []
    for frozen in (half, half.float()):
        product = adapted_product(x, frozen, bias.bfloat16().float(), down, up, scale=0.7)
        results.append((product, torch.autograd.grad(product.square().sum(), tensors)))
    torch.testing.assert_close(results[0], results[1], atol=0.0, rtol=0.0)
    product = adapted_product(x, half, bias.bfloat16(), down, up, scale=0.7)
    torch.testing.assert_close(product, results[0][0])
    assert product.dtype == torch.float32
