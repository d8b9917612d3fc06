"""The networks of the four roles: a policy (actor, reference), a critic, and an ensemble of reward models."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

import torch
from jaxtyping import Bool, Float, Shaped
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tercet.arm.policies.distributions import Distribution, Normal
from tercet.arm.sim.cameras import Camera
from tercet.config.arm import PolicyConfig
from tercet.core import gaussian
from tercet.core.statistics import ScoreScale
from tercet.errors import InputError, first_line
from tercet.runs.done import check_made
from tercet.train.chance import seed_everything

M = TypeVar("M", bound=nn.Module)

LEAST_STD = 1e-2  # smallest standard deviation of actions and pictures
ROUNDING = 1e-6  # a number that varies less, relative to its size, is constant up to rounding
LEAST = 1e-12  # smaller variation is rounding in any unit
UNSEEN = 1e30  # standard deviation of a number that was always 0: its scale is unknown, so it stays 0
FARTHEST = 10.0  # scaled observations are clipped to this many standard deviations


@dataclass(frozen=True)
class Sizes:
    """Sizes of an environment's observations and actions."""

    observation: int
    action: int
    robot: tuple[bool, ...] = ()  # which entries of an observation the robot measures on its own body, if known

    def numbers(self) -> dict[str, int]:
        """Return the sizes that a saved policy must match."""
        return {"observation": self.observation, "action": self.action}


class Scaled(nn.Module):
    """Standardise observations: subtract the mean and divide by the standard deviation. Both are saved buffers."""

    mean: Tensor
    std: Tensor

    def __init__(self, size: int, *, farthest: float = FARTHEST) -> None:
        super().__init__()
        self.farthest = farthest
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("std", torch.ones(size))

    def measure(self, observations: Float[Tensor, "*shape o"]) -> None:
        """Set mean and standard deviation from these observations. The result does not depend on their units.

        The deviation of a number that never varies is its size, so that a later change is not magnified. A number that
        is always 0 has no size and is ignored (`unseen`).
        """
        rows = observations.flatten(0, -2).double()
        std, size = rows.std(0, unbiased=False), rows.abs().amax(0)
        varies = std > (ROUNDING * size).clamp(min=LEAST)
        self.mean.copy_(rows.mean(0))
        self.std.copy_(torch.where(varies, std, torch.where(size > LEAST, size, UNSEEN)))

    def measure_known(self, values: Float[Tensor, "*shape o"]) -> None:
        """Set both from actions or pictures, whose units are known: the deviation is at least LEAST_STD."""
        rows = values.flatten(0, -2).double()
        self.mean.copy_(rows.mean(0))
        self.std.copy_(rows.std(0, unbiased=False).clamp(min=LEAST_STD))

    def unseen(self) -> list[int]:
        """Return the indices of the numbers that are ignored, because they were always 0."""
        return (self.std >= UNSEEN).nonzero().flatten().tolist()

    def forward(self, observations: Float[Tensor, "*shape o"]) -> Float[Tensor, "*shape o"]:
        """Return observations with mean about 0 and standard deviation about 1."""
        return ((observations - self.mean) / self.std).clamp(-self.farthest, self.farthest)


class Policy(nn.Module):
    """The interface of every kind of policy. Imitation, PPO, evaluation and the real arm use nothing else.

    A policy decides on `chunk` actions at a time. A decision is a row of `d` numbers or tokens. Pictures are uint8
    tensors (..., height, width, 3), one for each of the `cameras`, in their order; a policy without cameras gets none.
    CONTRIBUTING.md says how to add a kind.
    """

    sizes: Sizes
    scaled: Scaled  # of observations; the critic starts with the same scale
    noise_size: int  # standard normal numbers from which a decision is drawn
    chunk: int = 1
    cameras: tuple[Camera, ...] = ()
    sees_itself: bool = False  # True if it needs no entries about cube and goal

    def decide(
        self, observations: Float[Tensor, "*shape o"], noise: Float[Tensor, "*shape z"] | None, *pictures: Tensor
    ) -> Shaped[Tensor, "*shape d"]:
        """Draw a decision for each observation from standard normal noise; without noise take the most likely one."""
        raise NotImplementedError

    def actions(self, decisions: Shaped[Tensor, "*shape d"]) -> Float[Tensor, "*shape c a"]:
        """Return the actions of each decision, in their order."""
        raise NotImplementedError

    def distribution(
        self, observations: Float[Tensor, "*shape o"], decisions: Shaped[Tensor, "*shape d"], *pictures: Tensor
    ) -> Distribution:
        """Return the distribution from which each decision would be drawn now. PPO takes log-probabilities from it."""
        raise NotImplementedError

    def imitation_loss(
        self,
        observations: Float[Tensor, "b o"],
        actions: Float[Tensor, "b c a"],
        mask: Bool[Tensor, "b c"],
        *pictures: Tensor,
    ) -> Float[Tensor, ""]:
        """Return the loss of behaviour cloning, summed over rows; actions count where `mask` is True."""
        raise NotImplementedError

    def measure(
        self, observations: Float[Tensor, "*shape o"], actions: Float[Tensor, "*shape a"], *pictures: Tensor
    ) -> None:
        """Set the scale from demonstrations, before the policy is cloned from them."""
        self.scaled.measure(observations)

    def measure_pictures(self, *pictures: Tensor) -> None:
        """Set the scale of pictures, if there are no demonstrations."""

    def explore(self, log_std: float) -> None:
        """Set the log standard deviation of exploration. Called once, before PPO."""
        raise NotImplementedError

    def save(self, folder: Path) -> None:
        """Write config.json, with the key `kind`, and the weights."""
        raise NotImplementedError


class GaussianPolicy(Policy):
    """A Gaussian over single actions. Its mean is the output of a perceptron."""

    def __init__(self, sizes: Sizes, *, hidden_size: int, num_layers: int, log_std: float) -> None:
        super().__init__()
        self.sizes, self.shape = sizes, {"hidden_size": hidden_size, "num_layers": num_layers}
        self.noise_size = sizes.action
        self.scaled = Scaled(sizes.observation)
        self.net = perceptron(sizes.observation, sizes.action, hidden_size, num_layers, gain=0.01)
        self.log_std = nn.Parameter(torch.full((sizes.action,), log_std))

    def forward(self, observations: Float[Tensor, "*shape o"]) -> Float[Tensor, "*shape a"]:
        """Return the mean action."""
        return self.net(self.scaled(observations))

    def decide(
        self, observations: Float[Tensor, "*shape o"], noise: Float[Tensor, "*shape a"] | None, *pictures: Tensor
    ) -> Float[Tensor, "*shape a"]:
        """Sample an action from standard normal noise; return the mean without noise."""
        mean = self(observations)
        return mean if noise is None else gaussian.sample(mean, self.log_std, noise)

    def actions(self, decisions: Float[Tensor, "*shape a"]) -> Float[Tensor, "*shape 1 a"]:
        """Return the decision itself: it is one action."""
        return decisions.unsqueeze(-2)

    def distribution(
        self, observations: Float[Tensor, "*shape o"], decisions: Float[Tensor, "*shape a"], *pictures: Tensor
    ) -> Normal:
        """Return the distribution of these decisions."""
        return Normal(decisions, self(observations), self.log_std)

    def imitation_loss(
        self,
        observations: Float[Tensor, "b o"],
        actions: Float[Tensor, "b 1 a"],
        mask: Bool[Tensor, "b 1"],
        *pictures: Tensor,
    ) -> Float[Tensor, ""]:
        """Return the squared error of the mean action, averaged over its dimensions and summed over rows."""
        return (self(observations) - actions[:, 0]).square().mean(-1).sum()

    def explore(self, log_std: float) -> None:
        """Set the log standard deviation."""
        nn.init.constant_(self.log_std, log_std)

    def save(self, folder: Path) -> None:
        """Write config.json and model.safetensors."""
        save(self, folder, {"kind": "policy", **self.sizes.numbers(), **self.shape})


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
        save(self, folder, {"kind": "critic", "observation": self.size, **self.shape})


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
        save(self, folder, {"kind": "reward_model", "observation": self.size, **self.shape})


def new_gaussian(sizes: Sizes, config: PolicyConfig) -> GaussianPolicy:
    """Create a policy whose actions are near 0."""
    return GaussianPolicy(sizes, hidden_size=config.hidden_size, num_layers=config.num_layers, log_std=config.log_std)


def new_critic(scaled: Scaled, config: PolicyConfig, *, seed: int) -> Critic:
    """Create a critic with the observation scale of the policy."""
    seed_everything(seed, "critic")
    critic = Critic(len(scaled.mean), hidden_size=config.hidden_size, num_layers=config.num_layers)
    critic.scaled.load_state_dict(scaled.state_dict())
    return critic


def load_gaussian(folder: Path, sizes: Sizes) -> GaussianPolicy:
    """Load a saved policy. Raises InputError if `folder` holds none, or one with other sizes."""
    shape = read_config(folder, "policy", observation=sizes.observation, action=sizes.action)
    return filled(GaussianPolicy(sizes, log_std=0.0, **shape), folder)


def load_critic(folder: Path, sizes: Sizes) -> Critic:
    """Load a saved critic. Raises InputError as `load_gaussian`."""
    return filled(Critic(sizes.observation, **read_config(folder, "critic", observation=sizes.observation)), folder)


def load_reward_model(folder: Path, sizes: Sizes) -> RewardEnsemble:
    """Load a saved ensemble. Raises InputError as `load_gaussian`."""
    shape = read_config(folder, "reward_model", observation=sizes.observation)
    return filled(RewardEnsemble(sizes.observation, **shape), folder)


def perceptron(size_in: int, size_out: int, hidden_size: int, num_layers: int, *, gain: float) -> nn.Sequential:
    """Create tanh layers with orthogonal weights, the last layer's times `gain` (Huang et al. 2022, detail 2)."""
    sizes = [size_in, *[hidden_size] * num_layers]
    layers: list[nn.Module] = []
    for before, after in pairwise(sizes):
        layers += [_layer(before, after, 2.0**0.5), nn.Tanh()]
    return nn.Sequential(*layers, _layer(sizes[-1], size_out, gain))


def _layer(size_in: int, size_out: int, gain: float) -> nn.Linear:
    layer = nn.Linear(size_in, size_out)
    nn.init.orthogonal_(layer.weight, gain)
    nn.init.zeros_(layer.bias)
    return layer


def save(module: nn.Module, folder: Path, config: Mapping[str, str | int]) -> None:
    """Write config.json and model.safetensors into `folder`."""
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    save_file({name: value.contiguous() for name, value in module.state_dict().items()}, folder / "model.safetensors")


def read_config(folder: Path, kind: str, **sizes: int) -> dict[str, int]:
    """Read the shape that `folder` was saved with. Raises InputError if its `sizes` are others."""
    check_made(folder)
    file = folder / "config.json"
    try:
        tree = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: cannot be read ({first_line(error)}); give the folder of a saved {kind}") from error
    if not isinstance(tree, dict) or tree.pop("kind", None) != kind:
        raise InputError(f"{folder}: holds no {kind}")
    for name, size in sizes.items():
        saved = tree.pop(name, None)
        if saved != size:
            raise InputError(f"{folder}: made for {saved} numbers in each {name}, but this arm has {size}")
    return tree


def filled(module: M, folder: Path) -> M:
    """Load the weights of `folder` into the module and freeze it. Raises InputError if they do not fit."""
    file = folder / "model.safetensors"
    try:
        module.load_state_dict(load_file(file))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise InputError(f"{file}: damaged, or the weights of another kind of model ({first_line(error)})") from error
    module.requires_grad_(False)
    return module.eval()
