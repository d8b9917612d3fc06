"""The critic: a perceptron that predicts the return of a state."""

from pathlib import Path

from jaxtyping import Float
from torch import Tensor, nn

from tercet.arm.networks.files import load_weights, read_config, save_model
from tercet.arm.networks.layers import Scaled, perceptron
from tercet.arm.networks.sizes import Sizes
from tercet.config.arm import PolicyConfig
from tercet.train.chance import seed_everything


class Critic(nn.Module):
    """Predict the value of a state."""

    def __init__(self, size: int, *, hidden_size: int, num_layers: int) -> None:
        super().__init__()
        self.size, self.shape = size, {"hidden_size": hidden_size, "num_layers": num_layers}
        self.scaled = Scaled(size)
        self.net = perceptron(size, 1, hidden_size, num_layers, gain=1.0)

    def forward(self, observations: Float[Tensor, "*shape o"]) -> Float[Tensor, "*shape"]:
        """Predict the return."""
        return self.net(self.scaled(observations)).squeeze(-1)

    def save(self, folder: Path) -> None:
        """Write config.json and model.safetensors."""
        save_model(self, folder, {"kind": "critic", "observation": self.size, **self.shape})


def new_critic(scaled: Scaled, config: PolicyConfig, *, seed: int) -> Critic:
    """Create a critic with the observation scale of the policy."""
    seed_everything(seed, "critic")
    critic = Critic(len(scaled.mean), hidden_size=config.hidden_size, num_layers=config.num_layers)
    critic.scaled.load_state_dict(scaled.state_dict())
    critic.scaled.moving_buffers = scaled.moving_buffers
    return critic


def load_critic(folder: Path, sizes: Sizes) -> Critic:
    """Load a saved critic and freeze it. Raises InputError if `folder` holds none, or one with other sizes."""
    shape = read_config(folder, "critic", ("hidden_size", "num_layers"), observation=sizes.observation)
    return load_weights(Critic(sizes.observation, **shape), folder)
