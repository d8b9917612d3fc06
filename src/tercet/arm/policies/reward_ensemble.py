"""The reward model: an ensemble of perceptrons that score states."""

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tercet.arm.policies.files import load_weights, read_config, save_model
from tercet.arm.policies.layers import Scaled, perceptron
from tercet.arm.policies.policy import Sizes
from tercet.core.statistics import ScoreScale


class RewardEnsemble(nn.Module):
    """Reward models of the state that a step led to. The reward is their mean, scaled by `gain` and `bias`."""

    gain: Tensor
    bias: Tensor

    def __init__(self, size: int, *, num_models: int, hidden_size: int) -> None:
        super().__init__()
        self.size, self.shape = size, {"num_models": num_models, "hidden_size": hidden_size}
        self.scaled = Scaled(size)
        nets = [perceptron(size, 1, hidden_size, 2, gain=1.0) for _ in range(num_models)]
        self.nets = nn.ModuleList(nets)
        self.register_buffer("gain", torch.ones(()))
        self.register_buffer("bias", torch.zeros(()))

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.gain.device

    def each(self, observations: Float[Tensor, "*shape o"]) -> Float[Tensor, "m *shape"]:
        """Return the output of each model before scaling. Preferences are learned from this."""
        scaled = self.scaled(observations)
        return torch.stack([net(scaled).squeeze(-1) for net in self.nets])

    def forward(self, observations: Float[Tensor, "*shape o"]) -> Float[Tensor, "*shape"]:
        """Return the reward of each state."""
        return self.each(observations).mean(0) * self.gain + self.bias

    def normalise(self, scale: ScoreScale) -> None:
        """Set the scale of every later reward."""
        self.gain.fill_(scale.gain)
        self.bias.fill_(scale.bias)

    def save(self, folder: Path) -> None:
        """Write config.json and model.safetensors."""
        save_model(self, folder, {"kind": "reward_model", "observation": self.size, **self.shape})


def load_reward_model(folder: Path, sizes: Sizes) -> RewardEnsemble:
    """Load a saved ensemble and freeze it. Raises InputError if `folder` holds none, or one with other sizes."""
    shape = read_config(folder, "reward_model", ("num_models", "hidden_size"), observation=sizes.observation)
    return load_weights(RewardEnsemble(sizes.observation, **shape), folder)
