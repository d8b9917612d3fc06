"""Where a run of PPO is: what the next update starts from, and what its checkpoints hold beside the networks."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from tercet.train import checkpoint
from tercet.train.checkpoint import Checkpoint
from tercet.train.ema import Average, learning_state
from tercet.train.learned import learned_tensors
from tercet.train.loss_scale import LossScale
from tercet.train.ppo.learner import Learner
from tercet.train.ppo.selection import Best, Validation
from tercet.train.ppo.watch import Scores, StopRule
from tercet.train.sharding import divided_as

BEST = "best/"  # prefix of the best actor's parameters in a checkpoint


@dataclass
class State:
    """What an update leaves to the next one, beside the networks."""

    done: int  # updates so far
    carry: Mapping[str, float]  # of the collection of rollouts
    best: Best
    best_state: Mapping[str, Tensor]  # parameters of the best actor
    watched: list[Mapping[str, Scores]]  # at every validation so far
    candidates: list[list[float]] | None  # scores of every actor that could be kept; None if they are not known

    @classmethod
    def at_start(cls, start: Validation, actor: nn.Module, carry: Mapping[str, float]) -> "State":
        """Return the state before the first update, where the best actor is the initial one."""
        best, candidates = Best(0, start.score, start.kl), [start.scores.tolist()]
        return cls(0, carry, best, learning_state(actor), [start.watched_scores], candidates)

    @classmethod
    def load(cls, info: Mapping[str, Any], folder: Path, learner: Learner, average: Average) -> "State":  # Any: JSON
        """Return the state of a checkpoint, whose networks are loaded into `learner` and `average`."""
        tensors = checkpoint.load(folder, modules=learner.modules, optimizers=learner.optimizers)
        average.load(tensors)
        learner.scales.update({name: LossScale(**info["loss_scales"][name]) for name in learner.scales})
        if learner.pace:
            learner.pace.share = info["lr_share"]
        best = {name.removeprefix(BEST): value for name, value in tensors.items() if name.startswith(BEST)}
        now = learned_tensors(learner.actor)
        return cls(
            info["done"],
            info["carry"],
            Best(**info["best"]),
            {name: divided_as(value, now[name]) for name, value in best.items()},
            info.get("watched", [{}]),  # absent in a checkpoint from before there was ppo.watch
            info.get("candidates"),  # absent in a checkpoint from before they were kept
        )

    def info(self, learner: Learner) -> dict[str, Any]:  # Any: JSON
        """Return what a checkpoint holds beside its tensors."""
        info = {name: getattr(self, name) for name in ("done", "carry", "watched", "candidates")}
        info["best"] = vars(self.best)
        info |= {"lr_share": learner.pace.share} if learner.pace else {}
        scales = {name: vars(scale) for name, scale in learner.scales.items()}
        return info | ({"loss_scales": scales} if scales else {})

    def checkpoint(self, learner: Learner, average: Average) -> Checkpoint:
        """Collect the tensors of a checkpoint; every rank must call this."""
        tensors = average.tensors() | {BEST + name: value for name, value in self.best_state.items()}
        return Checkpoint.of(learner.modules, learner.optimizers, tensors)

    def validated(self, now: Validation, actor: nn.Module, *, max_kl: float, stop: StopRule) -> None:
        """Add a validation of the actor, and keep the actor if it is the best of those that may be kept."""
        self.watched = [*self.watched, now.watched_scores]
        if now.kl <= max_kl and not stop.falls(self.watched):
            self.candidates = self.candidates and [*self.candidates, now.scores.tolist()]
            if now.score > self.best.score:
                self.best, self.best_state = Best(self.done, now.score, now.kl), learning_state(actor)
