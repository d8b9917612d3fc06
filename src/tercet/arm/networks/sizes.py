"""The sizes of an environment that networks are made for."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor

from tercet.errors import InputError


@dataclass(frozen=True)
class Sizes:
    """Sizes of an environment's observations and actions."""

    observation: int
    action: int
    robot: tuple[bool, ...] = ()  # which entries of an observation the robot measures on its own body, if known
    names: tuple[str, ...] = ()  # of the entries of an observation, if known
    told: tuple[bool, ...] = ()  # which entries follow from the instruction of the episode
    of: tuple[str, ...] = ()  # what each entry is about: a thing on the table, or ''
    sentences: tuple[str, ...] = ()  # of the instructions, by their numbers in the observation

    def numbers(self) -> dict[str, int]:
        """Return the sizes that a saved policy must match."""
        return {"observation": self.observation, "action": self.action}

    def own(self) -> Bool[Tensor, " o"]:
        """Return True for the entries that the robot measures. Raise InputError if they are not known."""
        if not any(self.robot):
            raise InputError(
                "policy.sees=itself: only the tasks of the built-in arm say which entries the robot itself measures; "
                "set policy.sees=everything"
            )
        return torch.tensor(self.robot)
