"""Weights that are divided among ranks learn what whole ones do, and each rank holds its part only."""

import os
from pathlib import Path

import pytest
import torch
from tests.on_ranks import on_ranks
from torch import Tensor, nn

from tercet.runs.ranks import num_ranks, rank
from tercet.train import checkpoint, parallel
from tercet.train.checkpoint import Checkpoint
from tercet.train.ema import Average, learning_state, set_learning_state
from tercet.train.optim import adamw, clip_gradients
from tercet.train.sharding import divided_as, is_divided, own_part, shard, whole

INPUTS = torch.randn(5, 6, generator=torch.Generator().manual_seed(0))
CPU = torch.device("cpu")


class Network(nn.Module):
    """Two layers, a frozen one, and a number that is not divided."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(6, 7)  # 7 rows: no number of ranks here divides them
        self.layers = nn.ModuleList([nn.Linear(7, 7), nn.Linear(7, 7).requires_grad_(False)])
        self.head = nn.Linear(7, 1, bias=False)
        self.bias = nn.Parameter(torch.tensor(0.5))

    def forward(self, x: Tensor) -> Tensor:
        """Compute one number per row."""
        x = self.first(x)
        for layer in self.layers:
            x = layer(x).tanh()
        return self.head(x)[:, 0] + self.bias


def _network(*, divided: bool = True) -> Network:
    network = Network()
    if divided and num_ranks() > 1:
        shard(network, list(network.layers), CPU)
    return network


def _step(network: Network, optimizer: torch.optim.Optimizer, *, max_norm: float = 0.5) -> float:
    """Take an optimizer step on the mean over all rows, and return the norm of the gradients."""
    optimizer.zero_grad()
    for rows in parallel.own_batches([1] * len(INPUTS), 1):
        some = INPUTS[rows] if len(rows) else INPUTS[:1]
        loss = (network(some)[: len(rows)] - 3.0).square().sum() / len(INPUTS)
        loss.backward()
    parallel.sum_gradients(network.parameters())
    norm = clip_gradients(network.parameters(), max_norm)
    optimizer.step()
    return norm


def _state(network: nn.Module) -> dict[str, Tensor]:
    return {name: whole(parameter).detach().clone() for name, parameter in network.named_parameters()}


def _learned(num_steps: int = 3) -> tuple[list[float], dict[str, Tensor]]:
    network = _network()
    optimizer = adamw(network, lr=0.05, weight_decay=0.1)
    return [_step(network, optimizer) for _ in range(num_steps)], _state(network)


@pytest.mark.parametrize("total", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_divided_weights_learn_what_whole_ones_do(total: int) -> None:
    (norms, state), *_ = on_ranks(1, _learned)
    of_ranks = on_ranks(total, _learned, shard=True)
    for norms_here, state_here in of_ranks:
        assert norms_here == pytest.approx(norms, rel=1e-5)
        assert all(torch.allclose(state_here[name], value, atol=1e-6) for name, value in state.items())
        assert norms_here == of_ranks[0][0]  # every rank clips by the same norm
    assert norms[0] > 0.5  # else nothing was clipped


def _held() -> tuple[int, int, int]:
    network = _network()
    optimizer = adamw(network, lr=0.05)
    _step(network, optimizer)
    moments = [value for state in optimizer.state.values() for value in state.values() if value.ndim]
    everything = sum(parameter.numel() for parameter in network.parameters())
    weights, states = (sum(own_part(t).numel() for t in tensors) for tensors in (network.parameters(), moments))
    return everything, weights, states


def test_each_rank_holds_a_part_of_weights_and_moments() -> None:
    of_ranks = on_ranks(2, _held, shard=True)
    everything = of_ranks[0][0]
    assert sum(weights for _, weights, _ in of_ranks) == everything + 1  # the number is on both
    assert all(weights < 0.6 * everything for _, weights, _ in of_ranks)
    assert sum(moments for _, _, moments in of_ranks) == 2 * (everything - 7 * 7 - 7 - 1)  # none of what is frozen


def _goes_on(folder: Path, before: int, after: int) -> dict[str, Tensor]:
    """Load a checkpoint if steps were taken before, take more, and save one."""
    network = _network()
    optimizer = adamw(network, lr=0.05)
    average = Average(network, 0.5)
    if before:
        average.load(checkpoint.load(folder / str(before), modules={"n": network}, optimizers={"o": optimizer}))
    for _ in range(after):
        _step(network, optimizer)
        average.update()
    made = Checkpoint.of({"n": network}, {"o": optimizer}, average.tensors())
    if rank() == 0:
        (folder / str(before + after)).mkdir()
        made.save(folder / str(before + after))
    parallel.wait()
    with average.in_place():
        return _state(network)


@pytest.mark.slow
def test_a_checkpoint_goes_on_with_another_number_of_ranks(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("one", "several")]
    for folder in folders:
        folder.mkdir()
    (wanted,) = on_ranks(1, _goes_on, folders[0], 0, 3)
    on_ranks(2, _goes_on, folders[1], 0, 1, shard=True)
    on_ranks(4, _goes_on, folders[1], 1, 1, shard=True)
    (found,) = on_ranks(1, _goes_on, folders[1], 2, 1)
    assert all(torch.allclose(found[name], value, atol=1e-6) for name, value in wanted.items())


def _restored() -> bool:
    network = _network()
    before, state = _state(network), learning_state(network)
    _step(network, adamw(network, lr=0.5))
    changed = any(not torch.equal(value, before[name]) for name, value in _state(network).items())
    set_learning_state(network, {name: whole(value) for name, value in state.items()})
    return changed and all(torch.equal(value, before[name]) for name, value in _state(network).items())


def test_whole_and_divided_copies_of_what_was_learned_come_back() -> None:
    assert on_ranks(3, _restored, shard=True) == [True] * 3


def _parts() -> tuple[bool, Tensor, Tensor]:
    like = _network().first.weight
    numbers = torch.arange(42.0).view(7, 6)
    part = divided_as(numbers, like)
    return is_divided(part), own_part(part), whole(part)


@pytest.mark.slow
def test_a_whole_tensor_is_divided_like_another() -> None:
    of_ranks = on_ranks(3, _parts, shard=True)
    assert all(divided for divided, _, _ in of_ranks)
    assert torch.equal(torch.cat([part for _, part, _ in of_ranks]), torch.arange(42.0).view(7, 6))
    assert all(torch.equal(everything, torch.arange(42.0).view(7, 6)) for _, _, everything in of_ranks)


@pytest.mark.parametrize("learns", [False, True])
def test_a_lost_rank_is_an_error_of_a_pass(learns: bool) -> None:
    def dies() -> None:
        network = _network()
        loss = network(INPUTS).sum() if learns else None
        if rank() == 1:
            os._exit(1)
        (network(INPUTS).sum() if loss is None else loss).backward()

    with pytest.raises(AssertionError, match="LostRankError: another process of this run has ended"):
        on_ranks(2, dies, shard=True)


def test_every_rank_has_equally_many_batches() -> None:
    def batches() -> tuple[list[list[int]], list[str]]:
        mine = ["a"] if rank() else ["a", "b", "c"]
        return [rows.tolist() for rows in parallel.own_batches([5, 1, 1, 1], 1)], parallel.even(mine, "")

    (first, first_words), (second, second_words) = on_ranks(2, batches, shard=True)
    assert first == [[0], [], []]
    assert second == [[1], [2], [3]]
    assert (first_words, second_words) == (["a", "b", "c"], ["a", "", ""])
    assert on_ranks(2, batches)[0] == ([[0]], ["a", "b", "c"])
