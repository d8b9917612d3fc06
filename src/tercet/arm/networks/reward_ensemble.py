"""The reward model: an ensemble of perceptrons that score states, or say whether they are a success."""

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tercet.arm.networks.files import load_weights, read_config, read_json, save_model
from tercet.arm.networks.layers import Scaled, perceptron
from tercet.arm.networks.sizes import Sizes
from tercet.core.statistics import ScoreScale
from tercet.runs.done import check_made


class RewardEnsemble(nn.Module):
    """Reward models of the state that a step led to. The reward is their mean, scaled by `gain` and `bias`."""

    gain: Tensor
    bias: Tensor
    kind = "reward_model"

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
        save_model(self, folder, {"kind": self.kind, "observation": self.size, **self.shape})


class SuccessClassifier(RewardEnsemble):
    """Classifiers of success. The reward is the probability of success by their mean logit."""

    kind = "success_classifier"

    def forward(self, observations: Float[Tensor, "*shape o"]) -> Float[Tensor, "*shape"]:
        """Return the probability of each state."""
        return self.each(observations).mean(0).sigmoid()


def load_reward_model(folder: Path, sizes: Sizes) -> RewardEnsemble:
    """Load a saved ensemble and freeze it. Raises InputError if `folder` holds none, or one with other sizes."""
    check_made(folder)
    kind = read_json(folder / "config.json").get("kind")
    model = SuccessClassifier if kind == SuccessClassifier.kind else RewardEnsemble
    shape = read_config(folder, model.kind, ("num_models", "hidden_size"), observation=sizes.observation)
    return load_weights(model(sizes.observation, **shape), folder)
