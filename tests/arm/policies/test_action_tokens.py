"""Actions as tokens: OpenVLA's bins, the logits of a larger vocabulary, and cloning."""

import math

import numpy as np
import torch

from tercet.arm.networks.sizes import Sizes
from tercet.arm.policies.action_tokens import TokenPolicy, centres_of, ids_of
from tercet.train.optim import adamw


def test_bins_equal_those_of_openvla() -> None:
    """Bins are numpy.digitize on 256 edges, from the end of the vocabulary, with 255 centres (Kim et al. 2024)."""
    actions = np.array([-1.0, -0.999, -0.5, 0.0, 0.123, 0.9999, 1.0, -3.0, 7.0], np.float32)
    edges = np.linspace(-1, 1, 256)
    expected = 32000 - np.digitize(actions.clip(-1, 1), edges)
    ids = ids_of(torch.from_numpy(actions), 32000)
    assert ids.tolist() == expected.tolist()
    assert (ids.min(), ids.max()) == (32000 - 256, 32000 - 1)
    centres = (edges[1:] + edges[:-1]) / 2
    wanted = centres[np.clip(32000 - expected - 1, 0, 254)]
    np.testing.assert_allclose(centres_of(ids, 32000), wanted, atol=1e-6)
    assert (centres_of(ids, 32000) - torch.from_numpy(actions.clip(-1, 1))).abs().max() <= 1 / 255 + 1e-6


def test_action_tokens_are_the_last_ids_of_a_larger_vocabulary() -> None:
    torch.manual_seed(0)
    policy = TokenPolicy(Sizes(3, 2), hidden_size=16, num_layers=1, vocab_size=400)
    observations = torch.randn(50, 3)
    with torch.no_grad():
        decisions = policy.decide(observations, torch.randn(50, 2))
        logprobs = policy.distribution(observations, decisions).logprobs()
    assert decisions.min() >= 400 - 256 and decisions.max() < 400
    # a new policy is almost uniform over the 256 tokens
    assert abs(float(logprobs.mean()) + 2 * np.log(256)) < 0.5


def test_logits_are_those_of_the_last_ids() -> None:
    torch.manual_seed(0)
    policy = TokenPolicy(Sizes(3, 2), hidden_size=16, num_layers=1, vocab_size=400)
    observations, decisions = torch.randn(5, 3), torch.randint(400 - 256, 400, (5, 2))
    with torch.no_grad():
        prefix = policy.projector(policy.scaled(observations))[:, None]
        inputs = torch.cat([prefix, policy.model.embed_tokens(decisions[:, :1])], 1)
        every = policy.model(inputs) @ policy.model.embed_tokens.weight.T
        distribution = policy.distribution(observations, decisions)
    torch.testing.assert_close(distribution.logits, every[..., -256:])
    assert torch.equal(distribution.chosen, decisions - (400 - 256))


def test_imitation_loss_is_the_mean_cross_entropy_over_joints() -> None:
    torch.manual_seed(0)
    policy = TokenPolicy(Sizes(3, 2), hidden_size=16, num_layers=1, vocab_size=256)
    observations, actions = torch.randn(6, 3), 2 * torch.rand(6, 1, 2) - 1
    tokens = ids_of(actions[:, 0], 256)
    loss = policy.imitation_loss(observations, actions, torch.ones(6, 1, dtype=torch.bool))
    logits = policy.distribution(observations, tokens).logits
    wanted = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens.flatten(), reduction="sum") / 2
    torch.testing.assert_close(loss, wanted)


def test_a_cloned_policy_explores_around_demonstrations_with_std_exp_log_std() -> None:
    torch.manual_seed(0)
    policy = TokenPolicy(Sizes(3, 2), hidden_size=64, num_layers=1, vocab_size=256, log_std=math.log(0.2))
    observations, actions = torch.randn(1, 3).expand(128, 3), torch.tensor([0.4, -0.3]).expand(128, 1, 2)
    optimizer = adamw(policy, lr=3e-3)
    for _ in range(150):
        policy.imitation_loss(observations, actions, torch.ones(128, 1, dtype=torch.bool)).backward()
        optimizer.step()
        optimizer.zero_grad()
    with torch.no_grad():
        done = policy.actions(policy.decide(observations[:1].expand(4000, 3), torch.randn(4000, 2)))[:, 0]
    torch.testing.assert_close(done.mean(0), actions[0, 0], rtol=0, atol=0.05)
    torch.testing.assert_close(done.std(0), torch.full((2,), 0.2), rtol=0.2, atol=0)
