"""The networks of PPO: policy, reference and critic, and what they start from."""

from dataclasses import dataclass

import torch

from tercet.config.lm import LmConfig, NetworkConfig, RewardConfig
from tercet.lm.models.backbone import Backbone, load_reward_model
from tercet.lm.models.roles import Policy, ScoreModel, load_policy, load_score_model
from tercet.lm.rollout import (
    LmActorCritic,
)
from tercet.lm.sampling.model_check import check_policy
from tercet.lm.text.encoder import Encoder
from tercet.train.ppo.learner import Learner


@dataclass(frozen=True)
class Networks:
    """The networks of PPO beside those of the reward."""

    policy: Policy
    frozen: Policy | None  # the SFT policy; None where it is the policy without its adapters
    critic: ScoreModel | None
    backbone: Backbone | None  # that all of them share

    def learner(self, actor_critic: LmActorCritic, config: LmConfig) -> Learner:
        """Create the optimizers of policy and critic."""
        eight_bit = config.optimizer == "adamw8bit"
        scales_losses = config.scales_losses
        return Learner.of(
            actor_critic, self.policy, self.critic, config.ppo, scales_losses=scales_losses, eight_bit=eight_bit
        )


def load_networks(
    config: LmConfig, encoder: Encoder, start: str, policy_path: str, reward_path: str, number: int
) -> Networks:
    """Load the networks of a round: the policy from `start`, the reference from `policy_path`."""
    backbone = Backbone.load(config, policy_path) if config.lora.shared_backbone else None
    policy = backbone.policy() if backbone else load_policy(config, path=start, learns=True)
    encoder.check_window(policy.model)
    check_policy(policy)
    # in round 0 the policy without its adapters is the SFT policy
    frozen = None if config.lora.rank and not number else load_policy(config, path=policy_path)
    critic = load_critic(config, config.reward, reward_path, backbone) if config.ppo.has_critic else None
    if critic:
        encoder.check_window(critic.model)
    return Networks(policy, frozen, critic, backbone)


def load_critic(
    networks: NetworkConfig, reward: RewardConfig, reward_path: str, backbone: Backbone | None
) -> ScoreModel:
    """Load the critic: the weights of the reward model, or of reward.model if there is none, with a head of zeros.

    The reward model's own head has learned the score of a whole response. Before the end of a response it predicts the
    return worse than a constant does, and such values add noise to every advantage.
    """
    num_layers = reward.num_layers
    if reward_path:
        critic = load_reward_model(networks, reward_path, backbone, num_layers=num_layers, learns=True)
    elif backbone:
        critic = backbone.score_model(num_layers=num_layers, learns=True)
    else:
        critic = load_score_model(networks, path=reward.model, num_layers=num_layers, learns=True)
    with torch.no_grad():
        critic.head.weight.zero_()
        critic.bias.zero_()
    return critic
