"""Shared prefixes are computed once, with the same numbers."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.lm.cpu.test_last_layer import numbers_and_gradients
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from tercet.config.lm import LmConfig
from tercet.lm.batch import TokenBatch, pad
from tercet.lm.cpu import decoder, prefixes
from tercet.lm.cpu.decoder import Decoder
from tercet.lm.cpu.prefixes import Prefixes
from tercet.lm.models import roles
from tercet.lm.models.logprobs import response_logprobs
from tercet.lm.models.roles import load_policy, load_score_model
from tercet.lm.plan import probe
from tercet.lm.plan.cost import Sizes

MakeConfig = Callable[..., LmConfig]
ROWS = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=8), min_size=1, max_size=8)


@pytest.fixture
def shared() -> TokenBatch:
    """Two prompts with a shared prefix and two responses each: equal ones, and one that is a prefix of the other."""
    prompts = [[7, 8, 9, 10, 11, 12], [7, 8, 9, 20, 21]]
    answers = [[30, 31, 2], [30, 31, 2], [40], [40, 41, 42, 2]]
    return pad([prompts[0], prompts[0], prompts[1], prompts[1]], answers, pad_id=0)


def test_the_line_equals_one_built_by_hand() -> None:
    found = Prefixes.of([[1, 2, 3], [1, 2, 4], [1, 5], [1, 2, 3, 6], [1, 2]])
    assert found.tokens.tolist() == [1, 2, 3, 4, 5, 6]
    assert found.positions.tolist() == [0, 1, 2, 2, 1, 3]
    assert found.index.tolist() == [0, 1, 2, 0, 1, 3, 0, 4, 0, 1, 2, 5, 0, 1]
    assert [row.num_new for row in found.rows] == [3, 1, 1, 1, 0]
    assert found.sizes == (1, 1, 1, 1, 1, 1)
    assert found.rows[1].mask is not None and found.rows[1].mask.tolist() == [[True, True, True]]
    assert found.rows[0].mask is None


def test_rows_that_share_little_are_stored_whole() -> None:
    found = Prefixes.of([[2, *range(10, 20)], [2, *range(30, 40)]])
    assert found.sizes == (11, 11)
    assert found.index.tolist() == list(range(22))


@settings(deadline=None, derandomize=True)
@given(rows=ROWS)
def test_every_row_is_in_the_line_and_attention_equals_that_of_single_rows(rows: list[list[int]]) -> None:
    found = Prefixes.of(rows)
    tokens = found.tokens[found.index].tolist()
    assert tokens == [token for row in rows for token in row]
    assert found.positions[found.index].tolist() == [position for row in rows for position in range(len(row))]
    assert len(found.tokens) == sum(found.sizes) == sum(row.num_new for row in found.rows)
    query, key, value = torch.randn(3, 1, 2, len(found.tokens), 4)
    seen = found.attend(query, key, value)[..., found.index, :].split([len(row) for row in rows], -2)
    places = found.index.split([len(row) for row in rows])
    for ours, place in zip(seen, places, strict=True):
        alone = scaled_dot_product_attention(*(x[..., place, :] for x in (query, key, value)), is_causal=True)
        torch.testing.assert_close(ours, alone)


@pytest.mark.parametrize("lora", [{"rank": 0}, {"rank": 2}])
def test_numbers_and_gradients_equal_those_of_separate_rows(
    architecture: str,
    lora: dict[str, int],
    make_config: MakeConfig,
    shared: TokenBatch,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = make_config(architecture, lora=lora)
    together = numbers_and_gradients(config, shared)
    monkeypatch.setattr(roles, "can_be_unpadded", lambda _: False)
    monkeypatch.setattr(roles, "like_lengths", lambda lengths: [list(range(len(lengths)))])
    for ours, theirs in zip(together, numbers_and_gradients(config, shared), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5 * max(1.0, float(theirs.detach().abs().max())))


def test_only_distinct_tokens_are_computed(make_config: MakeConfig, shared: TokenBatch) -> None:
    model = load_score_model(make_config("llama"))
    seen: list[int] = []
    model.model.model.layers[0].mlp.register_forward_hook(lambda _m, _i, out: seen.append(out.shape[:-1].numel()))
    model.scores(shared)
    assert seen == [6 + 3 + 2 + 4] != [int(shared.lengths.sum())]


def watched(lines: list[Prefixes]) -> Callable[..., Tensor]:
    """Return `Prefixes.attend` that also records its object."""
    attended = Prefixes.attend

    def noting(self: Prefixes, *args: Tensor, **named: float) -> Tensor:
        lines.append(self)
        return attended(self, *args, **named)

    return noting


def test_the_plan_measures_rows_without_a_shared_prefix(make_config: MakeConfig) -> None:
    batch, _ = probe._micro_batch(
        make_config(ppo={"micro_batch_size": 8}).ppo, Sizes(prompt=8, response=4), torch.device("cpu")
    )
    assert len(Prefixes.of(batch.ids.tolist()).tokens) == batch.ids.numel() == 8 * 12


@pytest.mark.parametrize("lora", [{"rank": 0}, {"rank": 2}])
def test_responses_without_a_token_have_no_logprob(make_config: MakeConfig, lora: dict[str, int]) -> None:
    policy = load_policy(make_config("llama", lora=lora), learns=True)
    out = response_logprobs(policy, pad([[5, 6], [5, 7]], [[], []], pad_id=0), temperature=1.0)
    assert out.logprobs.shape == (2, 0)


@pytest.mark.parametrize("architecture", ["opt", "opt-350m", "llama", "qwen2"])
def test_sampling_reads_a_shared_prefix_once(
    architecture: str, make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, prompts = load_policy(make_config(architecture)).model, [[7, 8, 9, 10], [7, 8, 9, 20, 21], [7, 8, 9]]
    lines: list[Prefixes] = []
    monkeypatch.setattr(decoder.Prefixes, "attend", watched(lines))
    with torch.no_grad():
        together = Decoder(model, prompts)
        assert {len(line.tokens) for line in lines} == {6}
        monkeypatch.setattr(prefixes, "MIN_SHARED", 1.0)
        apart = Decoder(model, prompts)
        tokens = torch.tensor([1, 2, 3])
        torch.testing.assert_close(together.logits, apart.logits)
        torch.testing.assert_close(together(tokens), apart(tokens))
