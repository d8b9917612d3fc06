"""The moving average of what learns."""

import pytest
import torch
from torch import nn

from tercet.train.ema import Average, learning_state, set_learning_state


def network() -> nn.Linear:
    """Weight learns and is 1, 2; the bias is frozen at 5."""
    layer = nn.Linear(2, 1)
    layer.weight.data = torch.tensor([[1.0, 2.0]])
    layer.bias.data.fill_(5.0)
    layer.bias.requires_grad_(False)
    return layer


def test_by_hand() -> None:
    layer = network()
    average = Average(layer, decay=0.75)
    layer.weight.data = torch.tensor([[5.0, -2.0]])
    average.update()
    assert average.state["weight"].tolist() == [[2.0, 1.0]]  # 0.75 * 1 + 0.25 * 5, 0.75 * 2 - 0.25 * 2
    average.update()
    assert average.state["weight"].tolist() == [[2.75, 0.25]]
    assert layer.weight.tolist() == [[5.0, -2.0]]  # the module itself is left alone


def test_in_place_restores_the_weights_even_after_an_error() -> None:
    layer = network()
    average = Average(layer, decay=0.5)
    layer.weight.data = torch.tensor([[3.0, 4.0]])
    layer.bias.data.fill_(6.0)
    with average.in_place():
        assert layer.weight.tolist() == [[1.0, 2.0]] and layer.bias.item() == 6.0
    assert layer.weight.tolist() == [[3.0, 4.0]]
    with pytest.raises(RuntimeError, match="on the way"), average.in_place():
        raise RuntimeError("on the way")
    assert layer.weight.tolist() == [[3.0, 4.0]]
    assert average.state["weight"].tolist() == [[1.0, 2.0]]


def test_decay_0_is_the_module_itself() -> None:
    layer = network()
    average = Average(layer, decay=0.0)
    layer.weight.data.fill_(7.0)
    average.update()
    with average.in_place():
        assert layer.weight.tolist() == [[7.0, 7.0]]
    assert average.tensors() == {}


def test_a_checkpoint_holds_it() -> None:
    layer = network()
    average = Average(layer, decay=0.9)
    layer.weight.data.fill_(-3.0)
    average.update()
    saved = {name: tensor.clone() for name, tensor in average.tensors().items()}
    assert not set(saved) & set(layer.state_dict())  # names of its own
    other = Average(network(), decay=0.9)
    other.load(saved)
    assert torch.equal(other.state["weight"], average.state["weight"])


def test_a_learning_state_is_a_copy_of_what_learns_alone() -> None:
    layer = network()
    state = learning_state(layer)
    layer.weight.data.fill_(0.0)
    layer.bias.data.fill_(0.0)
    assert set(state) == {"weight"}
    set_learning_state(layer, state)
    assert layer.weight.tolist() == [[1.0, 2.0]] and layer.bias.item() == 0.0
    layer.weight.data.fill_(9.0)
    assert state["weight"].tolist() == [[1.0, 2.0]]
