"""The Euler steps from noise to actions, their noise, and the loss of flow matching."""

import torch
from torch import Tensor, nn

from tercet.arm.networks.sizes import Sizes
from tercet.arm.policies.chain import NUM_STEPS
from tercet.arm.policies.flow import FlowPolicy

CLEAN = torch.tensor([0.5, -0.3, 0.8, 0.1])


class ToClean(nn.Module):
    """The right prediction."""

    def forward(self, inputs: Tensor) -> Tensor:
        return CLEAN.expand(*inputs.shape[:-1], 4)


class NoisyActions(nn.Module):
    """Predict the noisy actions: a velocity of 0."""

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs[..., 3:7]


def make_policy(net: nn.Module | None = None, *, log_std: float = 0.0) -> FlowPolicy:
    torch.manual_seed(0)
    policy = FlowPolicy(Sizes(3, 2), hidden_size=16, num_layers=1, chunk_size=2, log_std=log_std)
    if net is not None:
        policy.net = net  # type: ignore[assignment]  # a stand-in for the perceptron
    return policy.requires_grad_(False)


def test_the_right_velocity_moves_noise_to_the_actions_along_straight_lines() -> None:
    policy, noise = make_policy(ToClean(), log_std=-20.0), torch.randn(7, 6 * 4)
    chain = policy.decide(torch.zeros(7, 3), noise).unflatten(-1, (NUM_STEPS + 1, 4))
    for step in range(NUM_STEPS + 1):
        expected = torch.lerp(noise[:, :4], CLEAN.expand(7, 4), step / NUM_STEPS)
        torch.testing.assert_close(chain[:, step], expected, rtol=0, atol=1e-5)
    most_likely = policy.decide(torch.zeros(2, 3), None)
    torch.testing.assert_close(policy.actions(most_likely), CLEAN.view(2, 2).expand(2, 2, 2), rtol=0, atol=1e-6)


def test_a_sampled_action_has_the_deviation_of_exploration_and_its_density() -> None:
    policy = make_policy(ToClean())
    policy.explore(-1.0)
    decisions = policy.decide(torch.zeros(20000, 3), torch.randn(20000, policy.noise_size))
    std = policy.actions(decisions).std(0)  # a step corrects the noise of those before it
    torch.testing.assert_close(std, torch.full((2, 2), 0.3679), rtol=0.03, atol=0)
    # each of 5 steps with 4 numbers has 1.4189 - 1 nats of entropy
    logprobs = policy.distribution(torch.zeros(20000, 3), decisions).logprobs()
    torch.testing.assert_close(logprobs.mean(), torch.tensor(-20 * 0.41894), rtol=0, atol=0.1)


def test_the_imitation_loss_is_the_squared_error_of_the_velocity() -> None:
    policy, num, clean = make_policy(NoisyActions()), 20000, 0.5
    actions, mask = torch.full((num, 2, 2), clean), torch.ones(num, 2, dtype=torch.bool)
    loss = policy.imitation_loss(torch.zeros(num, 3), actions, mask) / num  # the velocity is clean - noise
    torch.testing.assert_close(loss, torch.tensor(clean**2 + 1), rtol=0.03, atol=0)


def test_what_the_network_sees_in_training_lies_between_noise_and_actions() -> None:
    """A prediction that is off by 0.1 is a velocity that is off by 0.1 / (1 - t), whatever the noise."""
    policy, clean = make_policy(ToClean()), CLEAN + 0.1
    levels, noise = torch.arange(NUM_STEPS), torch.randn(NUM_STEPS, 4)
    errors = policy.errors(torch.zeros(NUM_STEPS, 3), clean.expand(NUM_STEPS, 4), levels, noise)
    expected = torch.tensor([0.1 / (1 - number / NUM_STEPS) for number in range(NUM_STEPS)])
    torch.testing.assert_close(errors.sqrt(), expected[:, None].expand(-1, 4), rtol=1e-4, atol=1e-5)


def test_every_time_is_trained() -> None:
    policy = make_policy().requires_grad_(True)
    policy.imitation_loss(torch.randn(300, 3), torch.randn(300, 2, 2), torch.ones(300, 2, dtype=torch.bool)).backward()
    assert policy.level_embed.weight.grad is not None
    assert (policy.level_embed.weight.grad.abs().sum(1) > 0).all()
