"""The supervised loop: the right mean, learning, and clear ends. Kills are in tests/runs/test_kills.py."""

import math
import os
import signal
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.on_ranks import on_ranks
from torch import nn

from tercet.config.fit import FitConfig
from tercet.errors import FailedError
from tercet.runs.folder import RunFolder
from tercet.runs.ranks import rank
from tercet.runs.stop import Ended, on_signal
from tercet.train.fit import LossTerms, fit, shuffled_plan

X = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
Y = X.sum(1, keepdim=True)


def _config(**values: float) -> FitConfig:
    return FitConfig.model_validate(values)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[RunFolder]:
    with RunFolder.open(tmp_path / "run", _config(), preset="tiny") as folder:
        yield folder


def _fit(
    folder: RunFolder, model: nn.Module, *, plan: Sequence[Sequence[int]], sizes: Sequence[int], **changes: Any
) -> list[dict[str, Any]]:  # Any: JSON rows, and fit's own arguments
    """Regress Y on X in micro-batches of these sizes; the rows that were logged."""

    def micro_batches(rows: Sequence[int]) -> list[Sequence[int]]:
        starts = [sum(sizes[:i]) for i in range(len(sizes))]
        return [rows[start : start + size] for start, size in zip(starts, sizes, strict=True)]

    def loss(rows: Sequence[int]) -> LossTerms:
        error = model(X[rows]) - Y[rows]
        return LossTerms(error.square().sum(), {"absolute": error.abs().sum().item()})

    arguments: dict[str, Any] = {"count": len, "loss": loss, "config": _config(lr=0.05), "seed": 0} | changes
    with folder.step("sft", total=len(plan), shown=["sft/loss"]) as step:
        fit(step, modules={"m": model}, plan=plan, micro_batches=micro_batches, metric_prefix="sft", **arguments)
    return folder.metrics()


def _zeros() -> nn.Linear:
    layer = nn.Linear(4, 1)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def test_it_learns(folder: RunFolder) -> None:
    plan = [[(16 * i + j) % 64 for j in range(16)] for i in range(120)]
    rows = _fit(folder, _zeros(), plan=plan, sizes=[8, 8])
    assert rows[0]["sft/loss"] > 1
    assert rows[-1]["sft/loss"] < 0.01
    assert [row["index"] for row in rows] == list(range(120))


def test_uneven_micro_batches_weigh_every_unit_alike(folder: RunFolder) -> None:
    """CORRECTNESS 18, against one backward over the whole batch."""
    whole, model = _zeros(), _zeros()
    error = whole(X[:7]) - Y[:7]
    error.square().mean().backward()
    assert whole.weight.grad is not None
    assert whole.bias.grad is not None
    norm = math.sqrt(whole.weight.grad.square().sum().item() + whole.bias.grad.square().sum().item())
    (row,) = _fit(folder, model, plan=[range(7)], sizes=[4, 2, 1])
    assert row["sft/loss"] == pytest.approx(error.square().mean().item())
    assert row["sft/absolute"] == pytest.approx(error.abs().mean().item())
    assert row["sft/grad_norm"] == pytest.approx(norm)
    assert row["sft/lr"] == 0.05


def test_the_count_divides_and_not_the_number_of_examples(folder: RunFolder) -> None:
    (row,) = _fit(folder, _zeros(), plan=[range(4)], sizes=[4], count=lambda rows: 10 * len(rows))
    assert row["sft/loss"] == pytest.approx(Y[:4].square().sum().item() / 40)


def test_empty_micro_batch_adds_nothing_and_an_empty_step_is_refused(folder: RunFolder) -> None:
    rows = _fit(folder, _zeros(), plan=[range(4)], sizes=[4, 0])
    assert rows[0]["sft/loss"] == pytest.approx(Y[:4].square().mean().item())
    with pytest.raises(FailedError, match="no unmasked token or pair"):
        _fit(RunFolder(folder.path, {}), _zeros(), plan=[range(4)] * 2, sizes=[4], count=lambda rows: 0)


def test_measurements_join_their_row_in_evaluation_mode_and_losses_run_in_training_mode(folder: RunFolder) -> None:
    model, modes = nn.Sequential(nn.Dropout(0.5), _zeros()), []

    def loss(rows: Sequence[int]) -> LossTerms:
        modes.append(("loss", model[0].training))
        return LossTerms((model(X[rows]) - Y[rows]).square().sum(), {})

    def measure(index: int) -> dict[str, float]:
        modes.append(("measure", model[0].training))
        return {"sft/held_out": 7.0} if index == 1 else {}

    rows = _fit(folder, model, plan=[range(4)] * 2, sizes=[4], loss=loss, measure=measure)
    assert modes == [("loss", True), ("measure", False)] * 2
    assert ["sft/held_out" in row for row in rows] == [False, True]


def test_dropout_differs_from_step_to_step_and_follows_the_seed(tmp_path: Path) -> None:
    def losses(name: str, seed: int) -> list[float]:
        with RunFolder.open(tmp_path / name, _config(), preset="tiny") as folder:
            model = nn.Sequential(nn.Dropout(0.5), nn.Linear(4, 1).requires_grad_(False), nn.Linear(1, 1))
            for parameter in model.parameters():
                nn.init.constant_(parameter, 0.5)
            config = _config(lr=1e-12)
            rows = _fit(folder, model, plan=[range(4)] * 3, sizes=[4], config=config, seed=seed)
            return [row["sft/loss"] for row in rows]

    first = losses("first", 0)
    assert len(set(first)) == 3
    torch.rand(7)  # what happened elsewhere doesn't matter
    assert losses("again", 0) == first
    assert losses("other", 1) != first


@pytest.mark.parametrize("odd", [math.nan, math.inf])
def test_non_finite_loss_stops_the_step_and_keeps_the_weights(folder: RunFolder, odd: float) -> None:
    model = _zeros()

    def loss(rows: Sequence[int]) -> LossTerms:
        return LossTerms(model(X[rows]).sum() * odd, {})

    with pytest.raises(FailedError, match="sft: the loss of step 0 is"):
        _fit(folder, model, plan=[range(4)], sizes=[4], loss=loss)
    assert model.weight.abs().sum() == 0
    assert folder.metrics() == []


def test_a_plan_of_nothing_is_refused(folder: RunFolder) -> None:
    with pytest.raises(ValueError, match="no optimizer step"):
        _fit(folder, _zeros(), plan=[], sizes=[])


def test_checkpoints_are_saved_at_the_interval_and_at_the_end(folder: RunFolder) -> None:
    seen: list[int] = []

    def measure(index: int) -> dict[str, float]:
        state = folder.path / "sft" / "checkpoint" / "state.json"
        seen.append(0 if not state.exists() else int(state.read_text().split('"num_steps": ')[1].split("}")[0]))
        return {}

    config = _config(lr=0.05, checkpoint_every=2)
    _fit(folder, _zeros(), plan=[range(4)] * 5, sizes=[4], config=config, measure=measure)
    assert seen == [0, 0, 2, 2, 4]
    with folder.step("sft", total=5, shown=[]) as step:
        restored = step.restore()
    assert restored is not None
    assert restored[0] == {"num_steps": 5}


def test_every_epoch_has_its_own_order_and_holds_every_row_once() -> None:
    steps = shuffled_plan(10, _config(epochs=2, batch_size=4), seed=0, name="bc")
    assert [len(rows) for rows in steps] == [4, 4, 2, 4, 4, 2]
    one, other = [*chain(*steps[:3])], [*chain(*steps[3:])]
    assert sorted(one) == sorted(other) == list(range(10))
    assert one != other
    assert shuffled_plan(10, _config(epochs=5, batch_size=4, max_steps=4), seed=0, name="bc") == steps[:4]


def test_sigterm_ends_it_after_a_checkpoint_from_which_it_continues_to_the_bit(tmp_path: Path) -> None:
    plan = [[(8 * i + j) % 64 for j in range(8)] for i in range(5)]
    rows: dict[str, list[dict[str, Any]]] = {}
    before = signal.signal(signal.SIGTERM, on_signal)
    for name in ("whole", "ended"):
        with RunFolder.open(tmp_path / name, _config(), preset="tiny") as folder:

            def ends(index: int, name: str = name) -> dict[str, float]:
                if name == "ended" and index == 2:
                    os.kill(os.getpid(), signal.SIGTERM)
                return {}

            model = _zeros()
            if name == "ended":
                with pytest.raises(Ended):
                    _fit(folder, model, plan=plan, sizes=[8], measure=ends)
                assert len(folder.metrics()) == 3
                model = _zeros()
            rows[name] = _fit(folder, model, plan=plan, sizes=[8])
    signal.signal(signal.SIGTERM, before)
    assert rows["ended"] == rows["whole"]


def test_all_ranks_end_if_one_is_asked(tmp_path: Path) -> None:
    def train() -> tuple[int, str]:
        signal.signal(signal.SIGTERM, on_signal)
        done: list[int] = []

        def ends(index: int) -> dict[str, float]:
            done.append(index)
            if rank() == 1 and index == 1:
                os.kill(os.getpid(), signal.SIGTERM)
            return {}

        with RunFolder.open(tmp_path / "run", _config(), preset="tiny") as folder:
            try:
                _fit(folder, _zeros(), plan=[range(4)] * 5, sizes=[4], measure=ends)
            except Ended:
                return len(done), "ended"
        return len(done), "finished"

    assert on_ranks(3, train) == [(2, "ended")] * 3


def test_a_rank_with_other_data_is_refused(tmp_path: Path) -> None:
    def begins(of_rank_1: str) -> None:
        data = {"questions": of_rank_1 if rank() == 1 else "abc"}
        with (
            RunFolder.open(tmp_path / of_rank_1, _config(), preset="tiny") as folder,
            folder.step("sft", total=1, shown=[], data=data),
        ):
            pass

    on_ranks(2, begins, "abc")
    with pytest.raises(AssertionError, match="process 1 reads other data than process 0 in questions"):
        on_ranks(2, begins, "xyz")
