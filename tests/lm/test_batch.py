"""Masks come from lengths: pad, EOS and BOS may be one id without anything noticing."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tercet.lm.batch import TokenBatch, like_lengths, pad

ROWS = st.lists(
    st.tuples(
        st.lists(st.integers(0, 3), min_size=1, max_size=5),
        st.lists(st.integers(0, 3), max_size=5),
    ),
    min_size=1,
    max_size=5,
)


def test_by_hand() -> None:
    batch = pad([[7, 2], [2, 2, 5]], [[2], [8, 9]], pad_id=2)
    assert batch.ids.tolist() == [[7, 2, 2, 2, 2], [2, 2, 5, 8, 9]]
    assert batch.prompt_lengths.tolist() == [2, 3]
    assert batch.response_mask.tolist() == [[True, False], [True, True]]
    assert batch.lengths.tolist() == [3, 5]
    assert batch.attention_mask.tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]
    assert [part.tolist() for part in batch.actions()] == [[0, 1, 1], [0, 0, 1], [2, 3, 4]]
    assert batch.deciding.nonzero().tolist() == [[0, 1], [1, 2], [1, 3]]
    assert batch.ends.nonzero().tolist() == [[0, 2], [1, 4]]


def test_per_position_numbers_are_read_at_the_token_or_in_front_of_it() -> None:
    batch = pad([[7, 2], [2, 2, 5]], [[2], [8, 9]], pad_id=2)
    numbers = torch.arange(10.0).view(2, 5)
    assert batch.at_actions(numbers, shift=0).tolist() == [[2.0, 0.0], [8.0, 9.0]]
    assert batch.at_actions(numbers, shift=-1).tolist() == [[1.0, 0.0], [7.0, 8.0]]
    assert batch.last(numbers).tolist() == [2.0, 9.0]
    assert batch.repeat_last(numbers).tolist() == [[0.0, 1.0, 2.0, 2.0, 2.0], [5.0, 6.0, 7.0, 8.0, 9.0]]


@settings(deadline=None, derandomize=True)
@given(rows=ROWS, pad_id=st.integers(0, 3))
def test_the_pad_id_is_never_read(rows: list[tuple[list[int], list[int]]], pad_id: int) -> None:
    prompts, responses = [p for p, _ in rows], [r for _, r in rows]
    batch = pad(prompts, responses, pad_id=pad_id)
    for i, (prompt, response) in enumerate(rows):
        real = batch.attention_mask[i].bool()
        assert batch.ids[i][real].tolist() == prompt + response
        assert batch.ids[i][: int(batch.prompt_lengths[i])].tolist() == prompt
        assert not batch.attention_mask[i].diff().gt(0).any()  # padding stands behind alone
    rows_, columns, positions = batch.actions()
    assert batch.ids[rows_, positions].tolist() == [token for response in responses for token in response]
    assert columns.tolist() == [column for response in responses for column in range(len(response))]


@settings(deadline=None, derandomize=True)
@given(rows=ROWS, data=st.data())
def test_some_rows_are_the_batch_of_those_rows(rows: list[tuple[list[int], list[int]]], data: st.DataObject) -> None:
    chosen = data.draw(st.lists(st.sampled_from(range(len(rows))), min_size=1))
    batch = pad([p for p, _ in rows], [r for _, r in rows], pad_id=0)
    part = batch.rows(torch.tensor(chosen))
    expected = pad([rows[i][0] for i in chosen], [rows[i][1] for i in chosen], pad_id=0)
    assert part.ids.tolist() == expected.ids.tolist()
    assert part.lengths.tolist() == expected.lengths.tolist()
    assert part.response_mask.shape[1] == batch.response_mask.shape[1]  # so that parts can be put together again
    assert TokenBatch.of(part.inputs).ids.tolist() == part.ids.tolist()


def test_an_answer_may_be_empty_and_a_prompt_may_not() -> None:
    batch = pad([[5], [6, 7]], [[], []], pad_id=0)
    assert batch.response_mask.shape == (2, 0)
    assert batch.last(torch.tensor([[1.0, 2.0], [3.0, 4.0]])).tolist() == [1.0, 4.0]
    with pytest.raises(ValueError, match="BOS token or text"):
        pad([[5], []], [[6], [7]], pad_id=0)


def test_rows_of_like_length_are_grouped_by_hand() -> None:
    assert like_lengths(torch.tensor([100, 300, 260, 90, 10])) == [[1, 2], [0, 3], [4]]
    assert like_lengths(torch.tensor([64] * 5)) == [[0, 1, 2, 3, 4]]
    assert like_lengths(torch.tensor([5, 60, 30])) == [[1, 2, 0]]  # few tokens: one product for all


@given(st.lists(st.integers(1, 400), min_size=1, max_size=40))
def test_groups_hold_every_row_once_and_little_padding(lengths: list[int]) -> None:
    groups = like_lengths(torch.tensor(lengths))
    assert sorted(row for rows in groups for row in rows) == list(range(len(lengths)))
    padded = sum(max(lengths[row] for row in rows) * len(rows) for rows in groups)
    assert padded <= sum(lengths) / 0.85 + 400 * len(groups)
