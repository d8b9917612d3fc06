"""A checkpoint brings back everything that learns, to the bit, and refuses what it doesn't fit."""

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tercet.errors import FailedError
from tercet.train import checkpoint
from tercet.train.checkpoint import Checkpoint
from tercet.train.optim import adamw, set_lr


def _model(seed: int, *, frozen: bool = True) -> nn.Sequential:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 1))
    model[2].requires_grad_(not frozen)
    return model


def _learn(model: nn.Module, optimizer: torch.optim.Optimizer, num_steps: int) -> None:
    x = torch.arange(12.0).view(4, 3).sin()
    for _ in range(num_steps):
        optimizer.zero_grad()
        model(x).square().sum().backward()
        optimizer.step()


def _equal(left: nn.Module, right: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(left.parameters(), right.parameters(), strict=True))


def test_learning_goes_on_to_the_bit(tmp_path: Path) -> None:
    model = _model(0)
    optimizer = adamw(model, lr=0.1, weight_decay=0.1)
    _learn(model, optimizer, 3)
    set_lr(optimizer, 0.07)
    Checkpoint.of({"model": model}, {"adam": optimizer}).save(tmp_path)
    _learn(model, optimizer, 3)

    again = _model(0)
    other = adamw(again, lr=0.1, weight_decay=0.1)
    checkpoint.load(tmp_path, modules={"model": again}, optimizers={"adam": other})
    _learn(again, other, 3)
    assert _equal(model, again)


@pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="needs bitsandbytes: pip install 'tercet[bits]'")
def test_8_bit_moments_go_on_to_the_bit(tmp_path: Path) -> None:
    def learns(model: nn.Linear, optimizer: torch.optim.Optimizer) -> nn.Linear:
        for _ in range(3):
            model(torch.arange(128.0).view(2, 64).sin()).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
        return model

    torch.manual_seed(0)
    model = nn.Linear(64, 128)  # a matrix in 8 bits, a bias in fp32
    optimizer = adamw(model, lr=0.1, weight_decay=0.1, eight_bit=True)
    learns(model, optimizer)
    Checkpoint.of({"model": model}, {"adam": optimizer}).save(tmp_path)
    again = nn.Linear(64, 128)
    other = adamw(again, lr=0.1, weight_decay=0.1, eight_bit=True)
    checkpoint.load(tmp_path, modules={"model": again}, optimizers={"adam": other})
    assert _equal(learns(again, other), learns(model, optimizer))


def test_all_tensors_come_back_with_type_and_bits(tmp_path: Path) -> None:
    tensors = {
        "state": torch.random.get_rng_state(),
        "half": torch.tensor([1.0, torch.nan, -0.0], dtype=torch.bfloat16),
        "number": torch.tensor(3, dtype=torch.int64),
        "view": torch.arange(6).view(2, 3).T,
    }
    Checkpoint.of({}, {}, tensors).save(tmp_path)
    loaded = checkpoint.load(tmp_path, modules={}, optimizers={})
    assert set(loaded) == set(tensors)
    for name, tensor in tensors.items():
        assert loaded[name].dtype == tensor.dtype
        assert torch.equal(loaded[name].isnan(), tensor.isnan())
        assert torch.equal(loaded[name].nan_to_num(), tensor.nan_to_num())


def test_what_is_frozen_is_not_saved_and_not_touched(tmp_path: Path) -> None:
    saved, loaded = _model(0), _model(1)
    Checkpoint.of({"model": saved}, {}).save(tmp_path)
    checkpoint.load(tmp_path, modules={"model": loaded}, optimizers={})
    assert _equal(saved[0], loaded[0])
    assert not _equal(saved[2], loaded[2])


def test_a_parameter_of_two_modules_is_kept_once(tmp_path: Path) -> None:
    def pair() -> dict[str, nn.Module]:
        backbone = _model(0)
        return {"actor": nn.Sequential(backbone, nn.Linear(1, 1)), "critic": nn.Sequential(backbone, nn.Linear(1, 1))}

    saved, loaded = pair(), pair()
    optimizers = {"adam": adamw(saved, lr=0.1)}
    _learn(saved["actor"], optimizers["adam"], 1)
    Checkpoint.of(saved, optimizers).save(tmp_path)
    checkpoint.load(tmp_path, modules=loaded, optimizers={"adam": adamw(loaded, lr=0.1)})
    assert all(_equal(saved[name], loaded[name]) for name in saved)


def test_two_optimizers_keep_their_own_states(tmp_path: Path) -> None:
    def make() -> tuple[dict[str, nn.Module], dict[str, torch.optim.Optimizer]]:
        modules: dict[str, nn.Module] = {"actor": _model(0), "critic": _model(1)}
        return modules, {name: adamw(module, lr=0.1) for name, module in modules.items()}

    modules, optimizers = make()
    _learn(modules["actor"], optimizers["actor"], 2)  # the critic's has no state yet
    Checkpoint.of(modules, optimizers).save(tmp_path)
    again, others = make()
    checkpoint.load(tmp_path, modules=again, optimizers=others)
    assert not others["critic"].state
    for name in modules:
        _learn(modules[name], optimizers[name], 2)
        _learn(again[name], others[name], 2)
        assert _equal(modules[name], again[name])


def test_another_model_or_optimizer_is_refused(tmp_path: Path) -> None:
    model = _model(0)
    Checkpoint.of({"model": model}, {"adam": adamw(model, lr=0.1)}).save(tmp_path)
    with pytest.raises(FailedError, match=r"2 parameters do not match the current model, first model/2\.bias"):
        checkpoint.load(tmp_path, modules={"model": _model(0, frozen=False)}, optimizers={})
    wide = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))
    with pytest.raises(
        FailedError, match=r"model/0\.weight is torch.float32 \(4, 4\), saved as torch.float32 \(4, 3\)"
    ):
        checkpoint.load(tmp_path, modules={"model": wide}, optimizers={})
    with pytest.raises(FailedError, match=r"model/0\.weight is torch.bfloat16"):
        checkpoint.load(tmp_path, modules={"model": _model(0).bfloat16()}, optimizers={})
    with pytest.raises(FailedError, match=r"has optimizers \['adam'\], expected \[\]"):
        checkpoint.load(tmp_path, modules={"model": _model(0)}, optimizers={})


def test_nothing_is_pickled(tmp_path: Path) -> None:
    model = _model(0)
    optimizer = adamw(model, lr=0.1)
    _learn(model, optimizer, 1)
    tensors: dict[str, Tensor] = {"a": torch.zeros(1)}
    Checkpoint.of({"model": model}, {"adam": optimizer}, tensors).save(tmp_path)
    assert {path.suffix for path in tmp_path.iterdir()} == {".safetensors", ".json"}
