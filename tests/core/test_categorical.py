import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tercet.core.categorical import greedy, kl, logprobs_and_entropy, nucleus, sample

INF = float("inf")
SEEDS = st.integers(0, 2**31)
TEMPERATURES = st.floats(0.3, 3.0)
EIGHTHS = torch.tensor([[1.0, 2.0, 5.0]]).log() + 4.0  # probabilities 1/8, 2/8, 5/8


def random_logits(seed: int, n: int = 4, v: int = 7) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return 3.0 * torch.randn(n, v, generator=generator), torch.randint(0, v, (n,), generator=generator)


def test_by_hand():
    entropy = -(math.log(1 / 8) / 8 + 2 * math.log(2 / 8) / 8 + 5 * math.log(5 / 8) / 8)
    for action, prob in enumerate((1 / 8, 2 / 8, 5 / 8)):
        result = logprobs_and_entropy(EIGHTHS, torch.tensor([action]), temperature=1.0)
        assert result.logprobs.item() == pytest.approx(math.log(prob), rel=1e-6)
        assert result.entropy.item() == pytest.approx(entropy, rel=1e-6)


def test_temperature_by_hand():
    result = logprobs_and_entropy(EIGHTHS, torch.tensor([1]), temperature=0.5)  # probabilities 1/30, 4/30, 25/30
    assert result.logprobs.item() == pytest.approx(math.log(4 / 30), rel=1e-5)


@given(SEEDS, TEMPERATURES)
def test_agrees_with_torch_distributions(seed: int, temperature: float):
    logits, actions = random_logits(seed)
    result = logprobs_and_entropy(logits, actions, temperature=temperature)
    peer = torch.distributions.Categorical(logits=logits / temperature)
    torch.testing.assert_close(result.logprobs, peer.log_prob(actions), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(result.entropy, peer.entropy(), rtol=1e-5, atol=1e-5)


@given(SEEDS, st.floats(-1e4, 1e4))
def test_a_shift_of_the_logits_changes_nothing(seed: int, shift: float):
    logits, actions = random_logits(seed)
    logits = logits.double()
    here, there = (logprobs_and_entropy(x, actions, temperature=1.0) for x in (logits, logits + shift))
    torch.testing.assert_close(here.logprobs, there.logprobs)
    torch.testing.assert_close(here.entropy, there.entropy)


@pytest.mark.parametrize("spread", [1.0, 100.0])  # exp(300) is inf in fp32
@pytest.mark.parametrize("shift", [0.0, 1e4])
def test_large_logits_are_worked_with_exactly(spread: float, shift: float):
    logits, actions = shift + spread * torch.tensor([[0.0, 1.0, 2.0, 3.0]]), torch.tensor([2])
    result = logprobs_and_entropy(logits, actions, temperature=1.0)
    exact = torch.distributions.Categorical(logits=logits.double())
    torch.testing.assert_close(result.logprobs.double(), exact.log_prob(actions), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(result.entropy.double(), exact.entropy(), rtol=1e-6, atol=1e-6)


def test_the_logits_are_left_alone():
    logits, actions = random_logits(2)
    before = logits.clone()
    logprobs_and_entropy(logits, actions, temperature=1.0)
    sample(logits, torch.full((4,), 0.5), temperature=1.0)
    greedy(logits)
    kl(logits, logits)
    assert torch.equal(logits, before)


def test_sampling_by_hand():
    borders = [(0.0, 0), (0.124, 0), (0.126, 1), (0.374, 1), (0.376, 2), (0.999999, 2)]
    uniforms = torch.tensor([uniform for uniform, _ in borders])
    actions = sample(EIGHTHS.expand(6, 3), uniforms, temperature=1.0).actions
    assert actions.tolist() == [action for _, action in borders]


@given(SEEDS, TEMPERATURES)
def test_evenly_spaced_uniforms_give_each_action_its_share(seed: int, temperature: float):
    num = 2000
    logits, _ = random_logits(seed, n=1)
    uniforms = (torch.arange(num) + 0.5) / num
    counts = sample(logits.expand(num, 7), uniforms, temperature=temperature).actions.bincount(minlength=7)
    shares = num * torch.softmax(logits[0] / temperature, -1)
    assert (counts - shares).abs().max().item() <= 1.01


@given(SEEDS, st.sampled_from([0.0, 1e-30, 0.5, 1.0 - 2.0**-24, 1.0]))
def test_an_action_of_probability_0_is_never_picked(seed: int, uniform: float):
    logits, _ = random_logits(seed, n=20)
    generator = torch.Generator().manual_seed(seed)
    logits[torch.rand(20, 7, generator=generator) < 0.5] = -INF
    logits[torch.rand(20, 7, generator=generator) < 0.2] = -1e4  # not forbidden, but of probability 0 in fp32
    logits[:, 3] = 0.0
    actions = sample(logits, torch.full((20,), uniform), temperature=1.0).actions
    assert torch.softmax(logits, -1).gather(1, actions[:, None]).gt(0).all()


@given(SEEDS, TEMPERATURES)
def test_a_row_is_sampled_alike_in_any_company(seed: int, temperature: float):
    logits, _ = random_logits(seed, n=8)
    uniforms = torch.rand(8, generator=torch.Generator().manual_seed(seed))
    together = sample(logits, uniforms, temperature=temperature)
    for i in range(8):
        alone = sample(logits[i : i + 1], uniforms[i : i + 1], temperature=temperature)
        assert torch.equal(together.actions[i : i + 1], alone.actions)
        assert torch.equal(together.logprobs[i : i + 1], alone.logprobs)


@given(SEEDS, TEMPERATURES, st.sampled_from([7, 255, 256, 257, 1000]))
def test_blocks_of_the_vocabulary_change_nothing(seed: int, temperature: float, num: int):
    generator = torch.Generator().manual_seed(seed)
    logits, uniforms = 3.0 * torch.randn(50, num, generator=generator), torch.rand(50, generator=generator)
    logits[torch.rand(50, num, generator=generator) < 0.3] = -INF
    logits[:, num // 2] = 0.0
    drawn = sample(logits, uniforms, temperature=temperature)
    cumulative = torch.softmax(logits.double() / temperature, -1).cumsum(-1)
    below = torch.cat([torch.zeros(50, 1), cumulative], 1).gather(1, drawn.actions[:, None])[:, 0]
    above = cumulative.gather(1, drawn.actions[:, None])[:, 0]
    assert (below - 1e-6 <= uniforms).all() and (uniforms <= above + 1e-6).all()
    expected = logprobs_and_entropy(logits, drawn.actions, temperature=temperature).logprobs
    assert torch.allclose(drawn.logprobs, expected, atol=1e-5)


def test_the_first_and_the_last_action_of_many_blocks_are_reached():
    logits = torch.zeros(2, 1000)
    logits[:, :300] = logits[:, 900:] = -INF
    first, last = sample(logits, torch.tensor([0.0, 1.0]), temperature=1.0).actions.tolist()
    assert (first, last) == (300, 899)


def test_the_likeliest_action_is_taken_greedily():
    logits, _ = random_logits(5, n=6)
    drawn = greedy(logits)
    assert torch.equal(drawn.actions, logits.argmax(-1))
    expected = logprobs_and_entropy(logits, drawn.actions, temperature=1.0).logprobs
    assert torch.allclose(drawn.logprobs, expected, atol=1e-6)


def test_the_tail_of_a_large_vocabulary_is_reached_evenly():
    num, tail = 200_000, 2e-4
    probs = torch.full((1, num + 1), tail / num)
    probs[0, 0] = 1.0 - tail
    uniform = 1.0 - tail / 4  # three quarters of the way through the tail
    uniforms = torch.tensor([uniform, uniform + 10 * tail / num], dtype=torch.float64)
    action, tenth_next = sample(probs.log().expand(2, -1), uniforms, temperature=1.0).actions.tolist()
    assert action == pytest.approx(0.75 * num, abs=2e-3 * num)
    assert tenth_next - action == pytest.approx(10, abs=1)


@pytest.mark.parametrize("bad", [float("nan"), INF, -INF])
def test_logits_that_are_no_distribution_are_refused(bad: float):
    logits = torch.zeros(2, 3)
    logits[1, :] = bad
    with pytest.raises(ValueError, match="no action can be sampled"):
        sample(logits, torch.full((2,), 0.5), temperature=1.0)
    with pytest.raises(ValueError, match="no action can be sampled"):
        greedy(logits)


def test_kl_by_hand():
    logits = torch.tensor([[1.0, 2.0, 5.0], [4.0, 4.0, 0.0]]).log() - 3.0  # 1/8, 2/8, 5/8; 1/2, 1/2, 0
    ref_logits = torch.tensor([[2.0, 1.0, 1.0], [1.0, 1.0, 0.0]]).log()  # 2/4, 1/4, 1/4; 1/2, 1/2, 0
    expected = math.log(1 / 4) / 8 + 2 * math.log(1.0) / 8 + 5 * math.log(5 / 2) / 8
    assert kl(logits, ref_logits).tolist() == pytest.approx([expected, 0.0], abs=1e-6)


@given(SEEDS)
def test_kl_agrees_with_torch_distributions_and_is_0_between_equals(seed: int):
    logits, _ = random_logits(seed)
    others, _ = random_logits(seed + 1)
    peers = [torch.distributions.Categorical(logits=some) for some in (logits, others)]
    expected = torch.distributions.kl_divergence(*peers)
    torch.testing.assert_close(kl(logits, others), expected, rtol=1e-4, atol=1e-5)
    assert kl(logits, logits).eq(0).all()
    assert kl(logits.bfloat16(), others.bfloat16()).dtype == torch.float32


def test_impossible_action_adds_no_entropy_and_bf16_becomes_fp32():
    with_forbidden = torch.cat([EIGHTHS, torch.full((1, 1), -INF)], dim=1)
    here, there = (logprobs_and_entropy(x, torch.tensor([2]), temperature=1.0) for x in (with_forbidden, EIGHTHS))
    torch.testing.assert_close(here.logprobs, there.logprobs)
    torch.testing.assert_close(here.entropy, there.entropy)
    half = logprobs_and_entropy(EIGHTHS.bfloat16(), torch.tensor([2]), temperature=1.0)
    exact = logprobs_and_entropy(EIGHTHS.bfloat16().double(), torch.tensor([2]), temperature=1.0)
    torch.testing.assert_close(half.logprobs.double(), exact.logprobs, rtol=1e-6, atol=1e-6)


def test_the_nucleus_by_hand():
    probs = torch.tensor([[0.1, 0.4, 0.3, 0.2]]).expand(5, 4)
    kept = nucleus(probs.log(), torch.tensor([0.3, 0.5, 0.75, 0.95, 0.0])) > -INF
    wanted = [[0, 1, 0, 0], [0, 1, 1, 0], [0, 1, 1, 1], [1, 1, 1, 1], [0, 1, 0, 0]]
    assert kept.int().tolist() == wanted


@given(SEEDS, st.floats(0.0, 1.0))
def test_the_nucleus_is_the_smallest_set_that_reaches_top_p(seed: int, top_p: float):
    logits, _ = random_logits(seed)
    found = nucleus(logits, torch.full((4,), top_p))
    probs, inside = logits.softmax(-1), found > -INF
    torch.testing.assert_close(found[inside], logits[inside], rtol=0, atol=0)
    for row, kept in zip(probs, inside, strict=True):
        assert float(row[kept].sum()) >= top_p - 1e-5
        assert float(row[kept].sum() - row[kept].min()) < max(top_p, 1e-9) + 1e-5  # without its last action it does not
        assert not (~kept).any() or row[kept].min() >= row[~kept].max()
