"""What training changes is in checkpoints, in the best actor and in moving averages, buffers too."""

from pathlib import Path

import torch
from torch import Tensor, nn

from tercet.train import checkpoint
from tercet.train.checkpoint import Checkpoint
from tercet.train.ema import Average, learning_state, set_learning_state
from tercet.train.learned import learned_tensors
from tercet.train.optim import adamw


class Moving(nn.Module):
    """A part with a buffer that follows the data, and one that does not."""

    moving_buffers = ("mean",)
    mean: Tensor
    size: Tensor

    def __init__(self, mean: float) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor([mean]))
        self.register_buffer("size", torch.tensor([2.0]))


class Network(nn.Module):
    def __init__(self, mean: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.part, self.layer = Moving(mean), nn.Linear(1, 1)
        self.frozen = nn.Linear(1, 1).requires_grad_(False)


def test_trainable_parameters_and_moving_buffers_are_what_training_changes() -> None:
    assert set(learned_tensors(Network(1.0))) == {"part.mean", "layer.weight", "layer.bias"}
    assert set(learned_tensors(Moving(1.0))) == {"mean"}


def test_a_state_brings_back_the_moving_buffer_alone(tmp_path: Path) -> None:
    model, other = Network(1.0), Network(5.0)
    other.part.size.fill_(7.0)
    set_learning_state(other, learning_state(model))
    assert (other.part.mean.item(), other.part.size.item()) == (1.0, 7.0)


def test_a_checkpoint_holds_the_moving_buffer(tmp_path: Path) -> None:
    model, again = Network(3.0), Network(5.0)
    Checkpoint.of({"actor": model}, {"actor": adamw(model, lr=0.1)}).save(tmp_path)
    checkpoint.load(tmp_path, modules={"actor": again}, optimizers={"actor": adamw(again, lr=0.1)})
    assert again.part.mean.item() == 3.0


def test_an_average_follows_the_moving_buffer() -> None:
    model = Network(0.0)
    average = Average(model, 0.5)
    model.part.mean.fill_(4.0)
    average.update()
    with average.in_place():
        assert model.part.mean.item() == 2.0
    assert model.part.mean.item() == 4.0
