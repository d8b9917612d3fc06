"""The episodes of a group have the same start and other noise, and stand side by side."""

import torch
from tests.arm.conftest import make_episodes

from tercet.arm.networks.sizes import Sizes
from tercet.arm.play.agent import PolicyEpisodes, decisions_of, sample_episodes
from tercet.arm.play.groups import grouped
from tercet.arm.policies.gaussian import GaussianPolicy
from tercet.arm.sim.env import ArmEnv


def test_a_group_is_several_episodes_from_one_start() -> None:
    env = ArmEnv("reach", 3, horizon=4, num_threads=1)
    observation, action = env.single_observation_space.shape, env.single_action_space.shape
    assert observation and action
    policy = GaussianPolicy(Sizes(observation[0], action[0]), hidden_size=8, num_layers=1, log_std=-0.5)
    plays = [
        sample_episodes(env, policy, torch.randn(4, 3, policy.noise_size), num=3, horizon=4, seed=7) for _ in range(2)
    ]
    env.close()
    rows = grouped(plays).episodes
    starts = rows.observations[:, 0]
    for k in range(3):
        assert torch.equal(starts[2 * k], starts[2 * k + 1])
        assert not torch.equal(rows.actions[2 * k], rows.actions[2 * k + 1])
    assert not torch.equal(starts[0], starts[2]) and not torch.equal(starts[2], starts[4])


def play(number: int, starts: list[list[int]]) -> PolicyEpisodes:
    """Decisions and images hold the number of the play, the row and the step."""
    mask = torch.tensor(starts).bool()
    num, length = mask.shape
    codes = 100 * number + 10 * torch.arange(num)[:, None] + torch.arange(length)
    images = codes.T[mask.T].to(torch.uint8)[:, None, None, None].expand(-1, 1, 1, 3)
    return PolicyEpisodes(make_episodes(num, length), mask, codes[..., None].float(), (images,))


def test_decisions_and_images_of_a_group_belong_together() -> None:
    plays = [play(0, [[1, 0, 1], [1, 1, 0]]), play(1, [[1, 1, 1], [1, 0, 0]])]
    joined = grouped(plays)
    assert joined.decisions[:, 0, 0].tolist() == [0, 100, 10, 110]  # play 0 and play 1 of each start
    found = decisions_of(joined)
    assert found.mask.sum(1).tolist() == [2, 3, 2, 1]
    assert torch.equal(found.pictures[0][..., 0, 0, 0][found.mask].float(), found.decisions[..., 0][found.mask])


def test_one_play_stays_as_it_is() -> None:
    alone = play(0, [[1, 0]])
    assert grouped([alone]) is alone
