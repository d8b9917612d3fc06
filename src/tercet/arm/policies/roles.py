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

LEAST_STD = 1e-2  # an action or a picture that varies less counts as if it varied so much
ROUNDING = 1e-6  # of a number's size: what varies less is constant, but for rounding
LEAST = 1e-12  # what varies less is rounding in every unit
UNSEEN = 1e30  # the deviation of a number that was always 0, of whose scale nothing is known: it counts as 0 for good
FARTHEST = 10.0  # deviations from the mean that an observation counts at most


@dataclass(frozen=True)
class Sizes:
    """How many numbers an environment shows and takes."""

    observation: int
    action: int
    own: tuple[bool, ...] = ()  # of an observation, what the arm measures on itself, where that is known

    def numbers(self) -> dict[str, int]:
        """Those that a saved policy has to match."""
        return {"observation": self.observation, "action": self.action}


class Scaled(nn.Module):
    """Observations less their mean, divided by their deviation; both are saved with the network that reads them."""

    mean: Tensor
    std: Tensor

    def __init__(self, size: int, *, farthest: float = FARTHEST) -> None:
        super().__init__()
        self.farthest = farthest
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("std", torch.ones(size))

    def measure(self, observations: Float[Tensor, "*shape o"]) -> None:
        """Take mean and deviation of these observations, in whatever units: other units give the same scaled numbers.

        A number that never varies counts as if it varied by its own size, so that it is not blown up once it does; one
        that is always 0 has no size, and is not looked at (`unseen`).
        """
        rows = observations.flatten(0, -2).double()
        std, size = rows.std(0, unbiased=False), rows.abs().amax(0)
        varies = std > (ROUNDING * size).clamp(min=LEAST)
        self.mean.copy_(rows.mean(0))
        self.std.copy_(torch.where(varies, std, torch.where(size > LEAST, size, UNSEEN)))

    def measure_known(self, values: Float[Tensor, "*shape o"]) -> None:
        """The same of actions or pictures, whose units are known: their deviation is LEAST_STD at least."""
        rows = values.flatten(0, -2).double()
        self.mean.copy_(rows.mean(0))
        self.std.copy_(rows.std(0, unbiased=False).clamp(min=LEAST_STD))

    def unseen(self) -> list[int]:
        """Which numbers were always 0 when they were measured, and are not looked at."""
        return (self.std >= UNSEEN).nonzero().flatten().tolist()

    def forward(self, observations: Float[Tensor, "*shape o"]) -> Float[Tensor, "*shape o"]:
        """About mean 0 and deviation 1."""
        return ((observations - self.mean) / self.std).clamp(-self.farthest, self.farthest)


class Policy(nn.Module):
    """What every kind of policy offers. Imitation, PPO, evaluation and the real arm use nothing else of it.

    A policy decides on `chunk` actions at a time. A decision is a row of `d` numbers or tokens. Pictures are uint8
    tensors (..., height, width, 3), one for each of the `cameras`, in their order; a policy without cameras gets none.
    CONTRIBUTING.md says how to add a kind.
    """

    sizes: Sizes
    scaled: Scaled  # of observations; the critic starts with the same
    noise_size: int  # standard normal numbers from which a decision is drawn
    chunk: int = 1
    cameras: tuple[Camera, ...] = ()
    sees_itself: bool = False  # whether it needs none of the numbers that tell of cube and goal

    def decide(
        self, observations: Float[Tensor, "*shape o"], noise: Float[Tensor, "*shape z"] | None, *pictures: Tensor
    ) -> Shaped[Tensor, "*shape d"]:
        """Draw a decision for each observation from standard normal noise; without noise take the most likely one."""
        raise NotImplementedError

    def actions(self, decisions: Shaped[Tensor, "*shape d"]) -> Float[Tensor, "*shape c a"]:
        """Return the actions of each decision, in their order."""
        raise NotImplementedError

    def look(
        self, observations: Float[Tensor, "*shape o"], decisions: Shaped[Tensor, "*shape d"], *pictures: Tensor
    ) -> Distribution:
        """Return the distribution of which each decision would be drawn now: PPO takes log-probabilities from it."""
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
        """Take the scale of demonstrations, before the policy is cloned from them."""
        self.scaled.measure(observations)

    def measure_pictures(self, *pictures: Tensor) -> None:
        """Take the scale of pictures alone, where there are no demonstrations."""

    def explore(self, log_std: float) -> None:
        """Draw actions with this deviation from now on: PPO begins."""
        raise NotImplementedError

    def save(self, folder: Path) -> None:
        """Write config.json, whose `kind` names the kind, and the weights."""
        raise NotImplementedError


class GaussianPolicy(Policy):
    """A Gaussian over actions whose mean is a perceptron's; it decides on one action at a time."""

    def __init__(self, sizes: Sizes, *, hidden_size: int, num_layers: int, log_std: float) -> None:
        super().__init__()
        self.sizes, self.shape = sizes, {"hidden_size": hidden_size, "num_layers": num_layers}
        self.noise_size = sizes.action
        self.scaled = Scaled(sizes.observation)
        self.net = perceptron(sizes.observation, sizes.action, hidden_size, num_layers, gain=0.01)
        self.log_std = nn.Parameter(torch.full((sizes.action,), log_std))

    def forward(self, observations: Float[Tensor, "*shape o"]) -> Float[Tensor, "*shape a"]:
        """The mean action."""
        return self.net(self.scaled(observations))

    def decide(
        self, observations: Float[Tensor, "*shape o"], noise: Float[Tensor, "*shape a"] | None, *pictures: Tensor
    ) -> Float[Tensor, "*shape a"]:
        """An action, given standard normal noise; the mean without."""
        mean = self(observations)
        return mean if noise is None else gaussian.sample(mean, self.log_std, noise)

    def actions(self, decisions: Float[Tensor, "*shape a"]) -> Float[Tensor, "*shape 1 a"]:
        """The decision is the action."""
        return decisions.unsqueeze(-2)

    def look(
        self, observations: Float[Tensor, "*shape o"], decisions: Float[Tensor, "*shape a"], *pictures: Tensor
    ) -> Normal:
        """What the policy thinks of these decisions."""
        return Normal(decisions, self(observations), self.log_std)

    def imitation_loss(
        self,
        observations: Float[Tensor, "b o"],
        actions: Float[Tensor, "b 1 a"],
        mask: Bool[Tensor, "b 1"],
        *pictures: Tensor,
    ) -> Float[Tensor, ""]:
        """Squared error of the mean action, averaged over the action's dimensions and summed over rows."""
        return (self(observations) - actions[:, 0]).square().mean(-1).sum()

    def explore(self, log_std: float) -> None:
        """Draw actions with this deviation from now on."""
        nn.init.constant_(self.log_std, log_std)

    def save(self, folder: Path) -> None:
        """config.json and model.safetensors."""
        save(self, folder, {"kind": "policy", **self.sizes.numbers(), **self.shape})


class Critic(nn.Module):
    """The value of a state."""

    def __init__(self, size: int, *, hidden_size: int, num_layers: int) -> None:
        super().__init__()
        self.size, self.shape = size, {"hidden_size": hidden_size, "num_layers": num_layers}
        self.scaled = Scaled(size)
        self.net = perceptron(size, 1, hidden_size, num_layers, gain=1.0)

    def forward(self, observations: Float[Tensor, "*shape o"]) -> Float[Tensor, "*shape"]:
        """What is still to be earned."""
        return self.net(self.scaled(observations)).squeeze(-1)

    def save(self, folder: Path) -> None:
        """config.json and model.safetensors."""
        save(self, folder, {"kind": "critic", "observation": self.size, **self.shape})


class RewardEnsemble(nn.Module):
    """Several reward models of the state that a step led to; their mean, on a scale of its own, is the reward."""

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
        """What each model says, before the scale: what preferences are learned by."""
        seen = self.scaled(observations)
        return torch.stack([net(seen).squeeze(-1) for net in self.nets])

    def forward(self, observations: Float[Tensor, "*shape o"]) -> Float[Tensor, "*shape"]:
        """The reward of having come to each state."""
        return self.each(observations).mean(0) * self.gain + self.bias

    def normalise(self, scale: ScoreScale) -> None:
        """The scale of every later reward."""
        self.gain.fill_(scale.gain)
        self.bias.fill_(scale.bias)

    def save(self, folder: Path) -> None:
        """config.json and model.safetensors."""
        save(self, folder, {"kind": "reward_model", "observation": self.size, **self.shape})


def new_gaussian(sizes: Sizes, config: PolicyConfig) -> GaussianPolicy:
    """A fresh policy: its actions are near 0."""
    return GaussianPolicy(sizes, hidden_size=config.hidden_size, num_layers=config.num_layers, log_std=config.log_std)


def new_critic(sees: Scaled, config: PolicyConfig, *, seed: int) -> Critic:
    """A fresh critic that sees at the scale at which the policy does."""
    seed_everything(seed, "critic")
    critic = Critic(len(sees.mean), hidden_size=config.hidden_size, num_layers=config.num_layers)
    critic.scaled.load_state_dict(sees.state_dict())
    return critic


def load_gaussian(folder: Path, sizes: Sizes) -> GaussianPolicy:
    """A saved policy; InputError where it is none, or one for another arm."""
    shape = read_config(folder, "policy", observation=sizes.observation, action=sizes.action)
    return filled(GaussianPolicy(sizes, log_std=0.0, **shape), folder)


def load_critic(folder: Path, sizes: Sizes) -> Critic:
    """A saved critic; InputError as above."""
    return filled(Critic(sizes.observation, **read_config(folder, "critic", observation=sizes.observation)), folder)


def load_reward_model(folder: Path, sizes: Sizes) -> RewardEnsemble:
    """A saved ensemble; InputError as above."""
    shape = read_config(folder, "reward_model", observation=sizes.observation)
    return filled(RewardEnsemble(sizes.observation, **shape), folder)


def perceptron(size_in: int, size_out: int, hidden_size: int, num_layers: int, *, gain: float) -> nn.Sequential:
    """Tanh between layers; orthogonal weights, the last layer's times `gain` (Huang et al. 2022, detail 2)."""
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
    """config.json and model.safetensors in `folder`."""
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    save_file({name: value.contiguous() for name, value in module.state_dict().items()}, folder / "model.safetensors")


def read_config(folder: Path, kind: str, **sizes: int) -> dict[str, int]:
    """The shape that `folder` was saved with, once its `sizes` are found to be these."""
    check_made(folder)
    file = folder / "config.json"
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: cannot be read ({first_line(error)}); give the folder of a saved {kind}") from error
    if not isinstance(found, dict) or found.pop("kind", None) != kind:
        raise InputError(f"{folder}: holds no {kind}")
    for name, size in sizes.items():
        theirs = found.pop(name, None)
        if theirs != size:
            raise InputError(f"{folder}: made for {theirs} numbers in each {name}, where this arm has {size}")
    return found


def filled(module: M, folder: Path) -> M:
    """The module with the weights of `folder`, frozen; InputError where they are not its own."""
    file = folder / "model.safetensors"
    try:
        module.load_state_dict(load_file(file))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise InputError(f"{file}: damaged, or of another kind ({first_line(error)})") from error
    module.requires_grad_(False)
    return module.eval()
