"""The sampler draws from the policy's distribution and returns the log-probabilities."""

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tercet.config.lm import LmConfig
from tercet.lm import batch as batches
from tercet.lm.batch import pad
from tercet.lm.cpu.decoder import Decoder
from tercet.lm.models.logprobs import response_logprobs
from tercet.lm.models.roles import Policy, load_policy
from tercet.lm.sampling import generate as module
from tercet.lm.sampling.generate import SampledTokens, generate
from tercet.lm.sampling.stepper import Stepper

MakeConfig = Callable[..., LmConfig]

PROMPTS = [[5, 9, 7, 30, 11, 2, 8], [6], [2, 2, 40], [77, 78, 79, 80, 81]]


@pytest.fixture(params=["fast", "slow"], autouse=True)
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run every test with and without the fast decoder."""
    if request.param == "slow":
        monkeypatch.setattr(module, "can_decode", lambda *_: False)


def drawn(
    policy: Policy, prompts: list[list[int]] = PROMPTS, eos_id: int = 2, seed: int = 0, **settings: float
) -> SampledTokens:
    return generate(
        policy.model,
        prompts,
        end_ids=[eos_id],
        max_tokens=int(settings.get("max_tokens", 8)),
        temperature=settings.get("temperature", 1.0),
        generator=torch.Generator().manual_seed(seed),
    )


def test_any_end_token_is_the_last_token_of_a_response(policy: Policy) -> None:
    endless = drawn(policy, temperature=0.0, eos_id=299).tolist()
    ends = [endless[0][4], endless[1][2]]
    out = generate(
        policy.model, PROMPTS, end_ids=ends, max_tokens=8, temperature=0.0, generator=torch.Generator().manual_seed(0)
    )
    cut = [next((i + 1 for i, token in enumerate(row) if token in ends), 8) for row in endless]
    assert out.tolist() == [row[:length] for row, length in zip(endless, cut, strict=True)]
    assert out.ended.tolist() == [row[length - 1] in ends for row, length in zip(endless, cut, strict=True)]
    assert {row[-1] for row in out.tolist()} >= set(ends)


def with_early_eos(policy: Policy) -> int:
    """Return an EOS that ends the greedy response to the second prompt at its third token or earlier."""
    return drawn(policy, temperature=0.0, eos_id=299).tolist()[1][2]


def test_greedy_tokens_equal_those_of_transformers(policy: Policy) -> None:
    eos_id = with_early_eos(policy)
    ours = drawn(policy, eos_id=eos_id, temperature=0.0).tolist()
    for prompt, response in zip(PROMPTS, ours, strict=True):
        ids = torch.tensor([prompt])
        theirs = policy.model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=8,
            eos_token_id=eos_id,
            pad_token_id=eos_id,
        )
        assert response == theirs[0, len(prompt) :].tolist()
    assert len(ours[1]) <= 3 and ours[1][-1] == eos_id  # a row did end early, and the comparison has seen it


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_logprobs_equal_those_of_the_training_forward(policy: Policy, temperature: float) -> None:
    eos_id = drawn(policy, temperature=temperature).tolist()[1][2]  # so that rows end, and leave the batch, on the way
    out = drawn(policy, eos_id=eos_id, temperature=temperature)
    batch = pad(PROMPTS, out.tolist(), pad_id=eos_id)
    assert batch.response_mask.tolist() == out.mask.tolist()
    with torch.no_grad():
        training = response_logprobs(policy, batch, temperature=temperature).logprobs
    assert out.ended.any()
    assert float((training - out.logprobs).abs().max()) < 5e-5


def six_tokens(make_config: MakeConfig) -> Policy:
    shape = make_config("gpt2").model.architecture | {"vocab_size": 6, "initializer_range": 0.15}
    return load_policy(make_config("gpt2", model={"architecture": shape}))


def test_responses_have_the_frequencies_of_their_probabilities(make_config: MakeConfig) -> None:
    """Compare frequencies and exact probabilities of all responses of at most two tokens by a chi-square test."""
    policy, prompt, temperature, num = six_tokens(make_config), [1, 3], 1.5, 20_000

    def probabilities(ids: list[int]) -> list[float]:
        with torch.no_grad():
            return (policy.model(torch.tensor([ids])).logits[0, -1].double() / temperature).softmax(-1).tolist()

    expected = {(0,): probabilities(prompt)[0]}
    for first, second in itertools.product(range(1, 6), range(6)):
        expected[first, second] = probabilities(prompt)[first] * probabilities([*prompt, first])[second]
    assert sum(expected.values()) == pytest.approx(1.0)

    out = drawn(policy, [prompt] * num, eos_id=0, max_tokens=2, temperature=temperature).tolist()
    answers = [tuple(row) for row in out]
    assert set(answers) <= set(expected)
    seen = torch.tensor([float(answers.count(answer)) for answer in expected])
    wanted = torch.tensor([p * num for p in expected.values()])
    assert wanted.min() > 5  # below that the statistic does not follow its distribution
    chi_square = ((seen - wanted).square() / wanted).sum()
    p_value = torch.special.gammaincc(torch.tensor((len(expected) - 1) / 2), chi_square / 2)
    assert float(p_value) > 0.01


def batch_sizes(
    policy: Policy, monkeypatch: pytest.MonkeyPatch, compact_below: float, eos_id: int
) -> tuple[SampledTokens, list[int]]:
    sizes: list[int] = []
    with monkeypatch.context() as patch:
        for kind in (Stepper, Decoder):

            def see(step: object, ids: Tensor, call: Callable[..., Tensor] = kind.__call__) -> Tensor:
                sizes.append(len(ids))
                return call(step, ids)

            patch.setattr(kind, "__call__", see)
        patch.setattr(module, "COMPACT_BELOW", compact_below)
        return drawn(policy, eos_id=eos_id), sizes


def test_removing_finished_responses_from_the_batch_changes_nothing(
    policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    eos_id = drawn(policy).tolist()[1][2]
    all_stay, full = batch_sizes(policy, monkeypatch, 0.0, eos_id)
    all_leave, shrinking = batch_sizes(policy, monkeypatch, 1.0, eos_id)
    assert set(full) == {4} and shrinking[-1] < 4
    assert all_stay.ids.tolist() == all_leave.ids.tolist()
    assert all_stay.mask.tolist() == all_leave.mask.tolist()
    assert torch.allclose(all_stay.logprobs, all_leave.logprobs, atol=2e-5)


def test_a_response_does_not_depend_on_the_other_rows(policy: Policy) -> None:
    alone = drawn(policy, PROMPTS[1:2])  # its random numbers are the first row's
    together = drawn(policy, [PROMPTS[1], PROMPTS[0], PROMPTS[3]])
    assert together.tolist()[0] == alone.tolist()[0]
    assert torch.allclose(together.logprobs[0, : alone.ids.shape[1]], alone.logprobs[0], atol=2e-5)


def test_eos_is_an_action_and_a_cut_off_response_is_not_ended(make_config: MakeConfig) -> None:
    policy = six_tokens(make_config)
    out = drawn(policy, [[1, 3]] * 64, eos_id=0, max_tokens=3)
    for i, row in enumerate(out.tolist()):
        assert bool(out.ended[i]) == (row[-1] == 0)  # the EOS itself counts
        assert 0 not in row[:-1]
        assert out.ended[i] or len(row) == 3
        assert out.logprobs[i, : len(row)].lt(0).all() and out.logprobs[i, len(row) :].eq(0).all()
    assert 0 < int(out.ended.sum()) < 64


def test_eos_in_the_prompt_does_not_end_the_response(policy: Policy) -> None:
    lengths = [len(row) for row in drawn(policy, [[2, 2, 2], [5, 2]], eos_id=2, temperature=0.0).tolist()]
    assert min(lengths) >= 1


def test_random_numbers_come_only_from_the_generator(policy: Policy) -> None:
    torch.manual_seed(1)
    first, state = drawn(policy, seed=5).tolist(), torch.get_rng_state()
    torch.manual_seed(2)
    assert drawn(policy, seed=5).tolist() == first
    assert drawn(policy, seed=6).tolist() != first
    torch.manual_seed(1)
    drawn(policy, seed=7)
    assert torch.equal(torch.get_rng_state(), state)


def test_watch_gets_only_the_first_response(policy: Policy) -> None:
    eos_id = drawn(policy).tolist()[0][1]  # the first answer ends at once, and the others go on without it
    seen: list[int] = []
    out = generate(
        policy.model,
        PROMPTS,
        end_ids=[eos_id],
        max_tokens=8,
        temperature=1.0,
        generator=torch.Generator().manual_seed(0),
        watch=seen.append,
    )
    assert len(seen) <= 2 and seen == out.tolist()[0] and out.ids.shape[1] > 2


def test_equal_prompts_are_computed_once(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    hook = policy.model.get_output_embeddings().register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    read = Decoder._read
    monkeypatch.setattr(Decoder, "_read", lambda step, asked: (seen.append(len(asked)), read(step, asked))[1])
    settings = {"end_ids": [299], "max_tokens": 3, "temperature": 1.0}
    asked = [[5, 9, 7], [6], [5, 9, 7], [5, 9, 7]]
    many = generate(policy.model, asked, generator=torch.Generator().manual_seed(0), **settings)  # type: ignore[arg-type]
    hook.remove()
    assert seen[0] == 2 and len(many.ids) == 4
    for number in (2, 3):  # alone, with its own random numbers
        uniforms = torch.Generator().manual_seed(0)
        torch.rand(number, 3, generator=uniforms)
        alone = generate(policy.model, [asked[number]], generator=uniforms, **settings)  # type: ignore[arg-type]
        assert alone.tolist()[0] == many.tolist()[number]
        assert torch.allclose(alone.logprobs[0], many.logprobs[number], atol=1e-5)


def test_prompts_read_in_groups_give_the_same_responses(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    together = drawn(policy, seed=3)
    assert len(batches.like_lengths(torch.tensor([len(p) for p in PROMPTS]))) == 1
    monkeypatch.setattr(batches, "_FEW_TOKENS", 0)
    apart = drawn(policy, seed=3)
    assert together.tolist() == apart.tolist()
    assert torch.allclose(together.logprobs, apart.logprobs, atol=1e-5)
