import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tercet.core import categorical
from tercet.core.fused_categorical import logprobs_and_entropy

INF = float("inf")
SEEDS = st.integers(0, 2**31)
TEMPERATURES = st.floats(0.3, 3.0)


def random_logits(seed: int, n: int = 4, v: int = 7) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return 3.0 * torch.randn(n, v, generator=generator), torch.randint(0, v, (n,), generator=generator)


@given(SEEDS, TEMPERATURES)
def test_agrees_with_the_definition_and_so_do_the_gradients(seed: int, temperature: float):
    logits, actions = random_logits(seed)
    logits[0, (actions[0] + 1) % 7] = -INF
    weights = torch.randn(2, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    found = []
    for function in (logprobs_and_entropy, categorical.logprobs_and_entropy):
        leaf = logits.double().requires_grad_()
        result = function(leaf, actions, temperature=temperature)
        (weights[0] * result.logprobs).sum().backward()
        found.append((result.logprobs, result.entropy, leaf.grad))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs)


@given(SEEDS, TEMPERATURES)
def test_gradients_agree_with_autograd_through_log_softmax(seed: int, temperature: float):
    logits, actions = random_logits(seed)
    weights = torch.randn(2, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    ours, peers = (logits.double().requires_grad_() for _ in range(2))
    result = logprobs_and_entropy(ours, actions, temperature=temperature)
    (weights[0] * result.logprobs + weights[1] * result.entropy).sum().backward()
    peer = torch.distributions.Categorical(logits=peers / temperature)
    (weights[0] * peer.log_prob(actions) + weights[1] * peer.entropy()).sum().backward()
    torch.testing.assert_close(ours.grad, peers.grad)


def test_gradients_agree_with_finite_differences():
    logits, actions = random_logits(0)

    def both(logits: Tensor) -> tuple[Tensor, Tensor]:
        result = logprobs_and_entropy(logits, actions, temperature=0.7)
        return result.logprobs, result.entropy

    assert torch.autograd.gradcheck(both, logits.double().requires_grad_())


@given(SEEDS, st.sampled_from([1.0, 1.5, -3.0]))
def test_a_forbidden_action_is_as_if_it_were_not_there(seed: int, entropy_weight: float):
    logits, actions = random_logits(seed)
    with_forbidden = torch.cat([logits, torch.full((4, 1), -INF)], dim=1).requires_grad_()
    without = logits.clone().requires_grad_()
    results = [logprobs_and_entropy(x, actions, temperature=1.0) for x in (with_forbidden, without)]
    torch.testing.assert_close(results[0].logprobs, results[1].logprobs)
    torch.testing.assert_close(results[0].entropy, results[1].entropy)
    for result in results:
        (result.logprobs + entropy_weight * result.entropy).sum().backward()
    assert with_forbidden.grad is not None and without.grad is not None
    torch.testing.assert_close(with_forbidden.grad[:, :-1], without.grad)
    assert with_forbidden.grad[:, -1].eq(0).all()


def test_bf16_logits_are_computed_in_fp32_and_get_a_bf16_gradient():
    logits, actions = random_logits(1, n=8, v=1000)
    half = logits.bfloat16().requires_grad_()
    result = logprobs_and_entropy(half, actions, temperature=0.9)
    exact = logprobs_and_entropy(half.detach().double(), actions, temperature=0.9)
    assert result.logprobs.dtype == result.entropy.dtype == torch.float32
    torch.testing.assert_close(result.logprobs.double(), exact.logprobs, rtol=1e-6, atol=1e-5)
    torch.testing.assert_close(result.entropy.double(), exact.entropy, rtol=1e-6, atol=1e-5)
    result.logprobs.sum().backward()
    assert half.grad is not None and half.grad.dtype == torch.bfloat16


@pytest.mark.parametrize("at_once", [1, 7, 14, 10**6])  # one row at a time, one, two, or all
def test_blocks_of_rows_change_nothing(at_once: int):
    logits, actions = random_logits(4, n=5)
    ours, peers = (logits.double().requires_grad_() for _ in range(2))
    result = logprobs_and_entropy(ours, actions, temperature=0.7, at_once=at_once)
    peer = torch.distributions.Categorical(logits=peers / 0.7)
    torch.testing.assert_close(result.logprobs, peer.log_prob(actions))
    torch.testing.assert_close(result.entropy, peer.entropy())
    weights = torch.arange(1.0, 6.0)
    (weights * (result.logprobs + result.entropy)).sum().backward()
    (weights * (peer.log_prob(actions) + peer.entropy())).sum().backward()
    torch.testing.assert_close(ours.grad, peers.grad)


def test_no_rows():
    leaf = torch.zeros(0, 7, requires_grad=True)
    result = logprobs_and_entropy(leaf, torch.zeros(0, dtype=torch.long), temperature=1.0)
    assert result.logprobs.shape == result.entropy.shape == (0,)
    result.logprobs.sum().backward()
    assert leaf.grad is not None and leaf.grad.shape == (0, 7)


def test_nothing_of_the_size_of_the_logits_is_kept_for_the_backward_pass():
    logits, actions = random_logits(3)
    leaf = logits.requires_grad_()
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        logprobs_and_entropy(leaf, actions, temperature=1.0)
    large = [x for x in kept if x.numel() >= logits.numel()]
    assert [x.data_ptr() for x in large] == [leaf.data_ptr()]


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
    leaf = logits.requires_grad_()
    result = logprobs_and_entropy(leaf, actions, temperature=1.0)
    (result.logprobs + result.entropy).sum().backward()
    assert torch.equal(leaf.detach(), before)
