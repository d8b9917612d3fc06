"""Audit of a reward from pictures: how often it calls a success what the simulator does not, and the reverse."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Bool, Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from tercet.arm.networks.reward_ensemble import RewardEnsemble, SuccessClassifier
from tercet.arm.play.episodes import Episodes
from tercet.errors import InputError, first_line

FOLDER, LEARNED, HELD_OUT = "seen", "learned", "held_out"


@dataclass(frozen=True)
class Truth:
    """Pictures after each step of episodes, as features, and whether the simulator calls the step a success."""

    seen: Float[Tensor, "n t f"]
    success: Bool[Tensor, "n t"]

    @classmethod
    def of(cls, episodes: Episodes) -> "Truth":
        """Take them from episodes with a witness."""
        assert episodes.seen is not None
        return cls(episodes.seen, episodes.infos["success"] > 0.5)

    def save(self, file: Path) -> None:
        """Write them as safetensors."""
        save_file({"seen": self.seen.contiguous(), "success": self.success.contiguous()}, file)


def load_truth(file: Path) -> Truth:
    """Load them; InputError if the file is missing or damaged."""
    try:
        tensors = load_file(file)
        return Truth(tensors["seen"], tensors["success"])
    except (OSError, SafetensorError, KeyError) as error:
        raise InputError(f"{file}: missing or damaged ({first_line(error)}); run `tercet arm reward` again") from error


def file_of(step: Path, name: str) -> Path:
    """Return the file of that name in the folder of step 2."""
    return step / FOLDER / f"{name}.safetensors"


@torch.no_grad()
def rewards_of(model: RewardEnsemble, seen: Float[Tensor, "*shape f"]) -> Float[Tensor, "*shape"]:
    """Return the reward of each picture."""
    return model(seen.to(model.device)).cpu()


def threshold_of(model: RewardEnsemble, learned: Truth) -> float:
    """Return the reward above which the model calls a picture a success.

    It is one half for a classifier. Preferences have no such number; it is then that with the best F1 (the harmonic
    mean of precision and recall) on the episodes that the model learned from, or infinity if none of them succeeds.
    """
    if isinstance(model, SuccessClassifier):
        return 0.5
    rewards, order = rewards_of(model, learned.seen).flatten().sort(descending=True)
    success = learned.success.flatten()[order]
    if not success.any():
        return float("inf")
    num_right, num_called = success.cumsum(0), torch.arange(1, len(success) + 1)
    best = int((2 * num_right / (num_called + success.sum())).argmax())
    following = rewards[min(best + 1, len(rewards) - 1)]
    return float((rewards[best] + following) / 2)


def audit(model: RewardEnsemble, threshold: float, held_out: Truth) -> dict[str, float | int | None]:
    """Compare what the model calls a success with the truth, picture by picture. A share of nothing is None."""
    called = rewards_of(model, held_out.seen) > threshold
    counted = (called & held_out.success, called, held_out.success)
    num_right, num_called, num_success = (int(one.sum()) for one in counted)
    return {
        "precision": num_right / num_called if num_called else None,
        "recall": num_right / num_success if num_success else None,
        "num_called": num_called,
        "num_success": num_success,
        "num_pictures": held_out.success.numel(),
        "num_episodes": len(held_out.success),
        "threshold": threshold,
    }


def in_words(found: Mapping[str, float | int | None]) -> str:
    """Say what an audit found."""
    precision, recall = (found[name] for name in ("precision", "recall"))
    if precision is None or recall is None:
        called, success = found["num_called"], found["num_success"]
        return f"it called {called} pictures a success and {success} were one, so a share of them cannot be measured"
    return f"{precision:.0%} of the pictures that it calls a success are one, and it finds {recall:.0%} of those"


def is_complete(found: Mapping[str, float | int | None] | None) -> bool:
    """Return True if an audit measured both precision and recall."""
    return found is not None and found["precision"] is not None and found["recall"] is not None


def hacked(model: RewardEnsemble, threshold: float, episodes: Episodes) -> Bool[Tensor, " n"]:
    """True where the model calls the end of a row's first episode a success and the simulator does not."""
    assert episodes.seen is not None
    last = episodes.seen[torch.arange(len(episodes.seen)), episodes.first_ends()]
    return (rewards_of(model, last) > threshold) & ~episodes.succeeded()
