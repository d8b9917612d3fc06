"""Groups whose responses all earn the same are left out and drawn again, up to a bound."""

import pytest
import torch
from torch import Tensor

from tercet.lm.batch import pad
from tercet.lm.data.examples import Example, Message
from tercet.lm.ppo.redraws import Groups, draw_groups
from tercet.lm.sampling.responses import Responses


def responses_of(texts: list[str]) -> Responses:
    """One token for each letter; the prompt is the number of the response."""
    examples = [Example((Message("user", str(i)),), "", None, "made up", "") for i in range(len(texts))]
    batch = pad([[7, 8]] * len(texts), [[ord(letter) for letter in text] for text in texts], pad_id=0)
    return Responses(examples, texts, batch, batch.response_mask * -1.0, torch.tensor([len(t) > 1 for t in texts]))


def lengths(responses: Responses) -> Tensor:
    return torch.tensor([float(len(text)) for text in responses.texts])


EQUAL, VARIED, OTHER = ["ab", "cd"], ["e", "fgh"], ["ijkl", "m"]


def drawn(*attempts: list[str], max_redraws: int) -> tuple[Groups, list[int]]:
    asked: list[int] = []

    def draw(attempt: int) -> Responses:
        asked.append(attempt)
        return responses_of(attempts[attempt])

    groups = draw_groups(draw, lengths, lambda _, scores: scores, group_size=2, max_redraws=max_redraws)
    return groups, asked


def test_without_redraws_groups_of_equal_scores_stay_and_are_counted() -> None:
    groups, asked = drawn(EQUAL + VARIED, max_redraws=0)
    assert groups.responses.texts == EQUAL + VARIED and asked == [0]
    assert groups.metrics == {"equal_groups": 0.5, "drawn_groups": 2.0}


def test_groups_of_equal_scores_are_replaced_by_others() -> None:
    groups, asked = drawn(EQUAL + VARIED, EQUAL + OTHER, max_redraws=5)
    assert groups.responses.texts == VARIED + OTHER and asked == [0, 1]
    assert groups.metrics == {"equal_groups": 0.5, "drawn_groups": 4.0}
    assert groups.scores.tolist() == [1, 3, 4, 1]
    kept = groups.responses
    assert kept.batch.sequences == [[7, 8, *map(ord, text)] for text in kept.texts]  # padded to the longest of both
    assert kept.batch.response_mask.sum(1).tolist() == [1, 3, 4, 1] == (-kept.logprobs.sum(1)).tolist()
    assert kept.ended.tolist() == [False, True, True, False] and kept.prompts == ["2", "3", "2", "3"]


def test_no_more_groups_are_kept_than_were_asked_for() -> None:
    groups, _ = drawn(EQUAL + VARIED, OTHER + VARIED, max_redraws=1)
    assert groups.responses.texts == VARIED + OTHER


def test_after_the_bound_the_rollout_is_smaller() -> None:
    groups, asked = drawn(EQUAL + VARIED, EQUAL + EQUAL, EQUAL + EQUAL, max_redraws=2)
    assert groups.responses.texts == VARIED and asked == [0, 1, 2]
    assert groups.metrics == {"equal_groups": 5 / 6, "drawn_groups": 6.0}


def test_if_all_groups_are_equal_the_last_batch_is_returned() -> None:
    groups, asked = drawn(EQUAL + EQUAL, EQUAL + EQUAL, max_redraws=1)
    assert groups.responses.texts == EQUAL + EQUAL and asked == [0, 1]
    assert groups.metrics["equal_groups"] == 1.0


def test_what_is_compared_is_the_reward_and_not_the_score() -> None:
    """Scores that are all clipped are equal rewards."""
    groups = draw_groups(
        lambda _: responses_of(VARIED + OTHER),
        lengths,
        lambda _, scores: scores.clamp(max=3.0).masked_fill(scores < 3, 3.0),
        group_size=2,
        max_redraws=0,
    )
    assert groups.num_equal == 2 and groups.scores.tolist() == [1, 3, 4, 1]


@pytest.mark.parametrize("rows", [[2, 0], [1]])
def test_rows_of_responses_are_those_of_all_their_parts(rows: list[int]) -> None:
    responses = responses_of(["a", "bcd", "ef"])
    part = responses.rows(torch.tensor(rows))
    assert part.texts == [responses.texts[i] for i in rows] and part.prompts == [str(i) for i in rows]
    assert part.batch.sequences == [[7, 8, *map(ord, text)] for text in part.texts]
    assert torch.equal(part.ended, responses.ended[rows]) and torch.equal(part.logprobs, responses.logprobs[rows])
