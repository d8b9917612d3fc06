"""Several processes train as one: rows are divided, and sums, gradients and errors are those of all."""

import os
from itertools import chain

import pytest
import torch
from tests.on_ranks import on_ranks
from torch import nn

from tercet.errors import FailedError, InputError
from tercet.runs.ranks import alone, follows, num_ranks, rank, share
from tercet.train import parallel

COSTS = [7, 1, 1, 1, 3, 2, 5]


def test_one_process_has_all_rows_in_their_order() -> None:
    assert parallel.own_rows(COSTS).tolist() == list(range(7))
    assert [part.tolist() for part in parallel.own_batches(COSTS, 3)] == [[0, 1, 2], [3, 4, 5], [6]]
    assert parallel.own("abc", ord) == ["a", "b", "c"]
    assert parallel.summed({"a": 2}) == {"a": 2.0}
    part = torch.rand(3)
    assert parallel.combined(part) is part


def test_every_row_is_on_one_rank_and_the_costs_are_balanced() -> None:
    shares = on_ranks(2, lambda: parallel.own_rows(COSTS).tolist())
    assert sorted(chain(*shares)) == list(range(7))
    assert [sum(COSTS[row] for row in rows) for rows in shares] == [10, 10]


def test_rows_that_belong_together_stay_on_one_rank() -> None:
    words = ["a", "b", "a", "c", "b", "a"]
    shares = on_ranks(2, lambda: parallel.own(words, lambda _: 1, lambda word: word))
    assert [sorted(share) for share in shares] == [["a", "a", "a"], ["b", "b", "c"]]


def test_a_rank_may_have_no_row() -> None:
    assert on_ranks(3, lambda: [rows.tolist() for rows in parallel.own_batches([1, 1], 4)]) == [[[0]], [[1]], []]


def test_parts_are_combined_to_the_bit() -> None:
    whole = torch.tensor([0.1, -0.0, float("inf"), float("nan"), 1e-40, 3.0])

    def parts() -> list[torch.Tensor]:
        rows = parallel.own_rows([1] * 6)
        kinds = (whole, whole > 0, whole.nan_to_num().long())
        empty = [torch.zeros_like(values) for values in kinds]
        for part, values in zip(empty, kinds, strict=True):
            part[rows] = values[rows]
        return [parallel.combined(part) for part in empty]

    for numbers, flags, integers in on_ranks(3, parts):
        assert torch.equal(numbers.nan_to_num(nan=9.0), whole.nan_to_num(nan=9.0))
        assert torch.equal(flags, whole > 0)
        assert torch.equal(integers, whole.nan_to_num().long())


def test_sums_include_names_that_a_rank_without_rows_lacks() -> None:
    sums = on_ranks(3, lambda: parallel.summed({"all": rank() + 1} | ({"some": 0.5} if rank() == 1 else {})))
    assert sums == [{"all": 6.0, "some": 0.5}] * 3


@pytest.mark.parametrize("bucket", [parallel._BUCKET, 5])
def test_gradients_are_the_sums_of_all_ranks(bucket: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "_BUCKET", bucket)
    inputs = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))

    def gradients() -> list[torch.Tensor | None]:
        torch.manual_seed(0)
        model = nn.ModuleDict({"used": nn.Linear(3, 2), "unused": nn.Linear(3, 2), "other": nn.Linear(2, 1).double()})
        if rows := parallel.own(inputs.tolist(), lambda _: 1):
            states = model["used"](torch.tensor(rows))
            (states.square().sum() + model["other"](states.double()).sum()).backward()
        parallel.sum_gradients(model.parameters())
        return [parameter.grad for parameter in model.parameters()]

    (alone,) = on_ranks(1, gradients)
    for total in (2, 4, 5):
        of_ranks = on_ranks(total, gradients)
        for ours, theirs, first in zip(alone, of_ranks[-1], of_ranks[0], strict=True):
            if ours is None:
                assert theirs is None
            else:
                assert torch.allclose(ours, theirs, atol=1e-6)
                assert torch.equal(theirs, first)


def test_rank_0_shares_what_it_made_alone() -> None:
    assert on_ranks(3, lambda: share(lambda: (rank(), num_ranks(), follows()))) == [(0, 1, False)] * 3
    assert on_ranks(2, lambda: (rank(), follows(), num_ranks())) == [(0, False, 2), (1, True, 2)]


def _of_a_child() -> tuple[int, int]:
    with alone():
        return rank(), num_ranks()


def test_a_rank_works_alone_for_a_while() -> None:
    assert on_ranks(2, _of_a_child) == [(0, 1), (1, 1)]


@pytest.mark.parametrize(
    ("kind", "raised"), [(InputError, InputError), (FailedError, FailedError), (KeyError, FailedError)]
)
def test_an_error_of_rank_0_is_an_error_on_all(kind: type[Exception], raised: type[Exception]) -> None:
    def fails() -> None:
        raise kind("the reason")

    def caught() -> tuple[str, str]:
        try:
            share(fails)
        except Exception as error:
            return type(error).__name__, str(error)
        return "", ""

    own, other = on_ranks(2, caught)
    assert own[0] == kind.__name__
    assert other[0] == ("FailedError" if kind is KeyError else kind.__name__)
    assert "the reason" in own[1] and "the reason" in other[1]


def test_weights_that_drift_apart_are_an_error_on_all_ranks() -> None:
    def checked(by: float) -> str:
        torch.manual_seed(0)
        model = nn.Linear(30, 20)
        model.weight.data[0, 0] += by * rank()
        try:
            parallel.check_alike({"m": model})
        except FailedError as error:
            return str(error)
        return ""

    assert on_ranks(2, checked, 0.0) == ["", ""]
    assert all("have trained different weights" in error for error in on_ranks(2, checked, 0.01))
    assert all("have trained different weights" in error for error in on_ranks(2, checked, float("nan")))


def test_a_lost_rank_is_an_error_of_those_that_wait_for_it() -> None:
    def dies() -> None:
        if rank() == 1:
            os._exit(1)
        parallel.wait()

    with pytest.raises(AssertionError, match="LostRankError: another process of this run has ended"):
        on_ranks(2, dies)
