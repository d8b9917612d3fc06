"""The denoising chain from noise to actions, and its imitation loss."""

import torch
from torch import Tensor, nn

from tercet.arm.networks.sizes import Sizes
from tercet.arm.policies.chain import NUM_STEPS
from tercet.arm.policies.diffusion import NUM_NOISES, DiffusionPolicy, signal_shares


def make_policy(log_std: float) -> DiffusionPolicy:
    torch.manual_seed(0)
    return DiffusionPolicy(Sizes(3, 2), hidden_size=16, num_layers=1, chunk_size=2, log_std=log_std)


def test_the_share_of_signal_falls_to_almost_0() -> None:
    shares = signal_shares(NUM_NOISES)
    assert (shares[1:] < shares[:-1]).all()
    assert shares[0] > 0.95 and shares[-1] < 1e-3


def test_a_correct_prediction_gives_each_level_the_noise_of_training() -> None:
    """If the prediction is correct, each level is sqrt(share) * clean + sqrt(1 - share) * noise, as in training."""
    policy = make_policy(log_std=-20.0)
    for parameter in policy.net.parameters():
        torch.nn.init.zeros_(parameter)
    clean = torch.tensor([0.5, -0.3, 0.8, 0.1])
    with torch.no_grad():
        policy.net[-1].bias.copy_(clean)
        noise = torch.randn(40000, policy.noise_size)
        chain = torch.stack(policy.decide(torch.zeros(40000, 3), noise).split(policy.width, -1))
    # the chain starts at level 9 with pure noise, which has almost no signal
    for step, level in enumerate((7, 5, 3, 1), start=1):
        share = float(policy.shares[level])
        torch.testing.assert_close(chain[step].mean(0), share**0.5 * clean, rtol=0, atol=0.03)
        torch.testing.assert_close(chain[step].std(0), torch.full((4,), (1 - share) ** 0.5), rtol=0.02, atol=0)
    assert len(chain) == NUM_STEPS + 1
    torch.testing.assert_close(chain[-1], clean.expand(40000, 4), rtol=0, atol=1e-5)


def test_exploration_adds_its_deviation_to_the_action() -> None:
    policy = make_policy(log_std=0.0)
    policy.explore(-1.0)
    with torch.no_grad():
        policy.net[-1].weight.zero_()
        last = policy.actions(policy.decide(torch.zeros(20000, 3), torch.randn(20000, policy.noise_size)))
    torch.testing.assert_close(last.std(0), torch.full((2, 2), 0.3679), rtol=0.03, atol=0)


def test_actions_after_the_end_of_a_demonstration_are_ignored() -> None:
    policy = make_policy(log_std=0.0)
    observations, actions, mask = torch.randn(2, 3), torch.randn(2, 2, 2), torch.tensor([[True, True], [True, False]])
    losses = []
    for junk in (0.0, 50.0):
        actions[1, 1] = junk
        torch.manual_seed(0)
        losses.append(policy.imitation_loss(observations, actions, mask))
    torch.testing.assert_close(losses[0], losses[1])


def test_the_imitation_loss_is_the_squared_error_under_the_noise_schedule() -> None:
    class NoisyActions(nn.Module):
        """Predict the noisy actions instead of the clean ones."""

        def forward(self, inputs: Tensor) -> Tensor:
            return inputs[..., 3:7]

    policy = make_policy(log_std=0.0)
    policy.net = NoisyActions()  # type: ignore[assignment]  # a stand-in for the perceptron
    num, clean = 20000, 0.5
    torch.manual_seed(0)
    actions, mask = torch.full((num, 2, 2), clean), torch.ones(num, 2, dtype=torch.bool)
    share = policy.shares
    expected = ((share.sqrt() - 1) ** 2 * clean**2 + 1 - share).mean()
    torch.testing.assert_close(
        policy.imitation_loss(torch.zeros(num, 3), actions, mask) / num, expected, rtol=0.03, atol=0
    )


def test_every_noise_level_is_trained() -> None:
    policy = make_policy(log_std=0.0)
    torch.manual_seed(0)
    policy.imitation_loss(torch.randn(300, 3), torch.randn(300, 2, 2), torch.ones(300, 2, dtype=torch.bool)).backward()
    assert policy.level_embed.weight.grad is not None
    assert (policy.level_embed.weight.grad.abs().sum(1) > 0).all()
