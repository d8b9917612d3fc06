"""The loop of PPO: rollouts, updates, validations, checkpoints, and the actor that is kept."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import partial

from torch import Tensor

from tercet.config.ppo import LoopConfig
from tercet.runs.step import Step
from tercet.runs.stop import deferring, end
from tercet.train import parallel
from tercet.train.chance import generator
from tercet.train.ema import Average, set_learning_state
from tercet.train.optim import set_lr
from tercet.train.ppo.kept import KeptRollout, Seen, outputs
from tercet.train.ppo.learner import Learner
from tercet.train.ppo.selection import Best, Shrinkage, Validation
from tercet.train.ppo.state import State
from tercet.train.ppo.update import update
from tercet.train.ppo.watch import NEVER, Stopped, StopRule, require_scores
from tercet.types import Rollout


@dataclass(frozen=True)
class Collected:
    """One rollout with its metrics and samples; `carry` is the state that the next collection starts from.

    `own` has the tensors of the language side or of the arm that are kept with the rollout, and `seconds` the times of
    parts of the collection.
    """

    rollout: Rollout
    metrics: dict[str, float]
    samples: list[dict[str, str | float]]
    carry: dict[str, float]
    own: Mapping[str, Tensor] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Trained:
    """How training ended: the checkpoint that was kept, and why training stopped early, if it did."""

    best: Best
    stopped: Stopped | None
    shrinkage: Shrinkage | None  # None if it cannot be estimated

    @property
    def best_checkpoint(self) -> dict[str, int | float]:
        """The kept checkpoint, for results.json."""
        return vars(self.best) | (vars(self.shrinkage) if self.shrinkage else {})

    def kept(self, unit: str) -> str:
        """Say which checkpoint was kept; `unit` is what the actor was validated on."""
        text = f"kept the policy of update {self.best.update}: validation score {self.best.score:.3g}"
        if not self.shrinkage or self.shrinkage.num_candidates == 1:
            return text
        of = f"the best of {self.shrinkage.num_candidates} validations on {self.shrinkage.num_scores} {unit}"
        return f"{text}, of which about {self.shrinkage.expected_shrinkage:.2g} is chance ({of})"


def train(
    step: Step,
    learner: Learner,
    *,
    collect: Callable[[int, Mapping[str, float]], Collected],
    validate: Callable[[], Validation],
    carry: dict[str, float],
    config: LoopConfig,
    samples_every: int,
    seed: int,
    extra_actor_loss: Callable[[int, int], Tensor] | None = None,
    after_update: Callable[[int, Collected], None] | None = None,
    stop: StopRule = NEVER,
    keep: Collection[int] = (),
    budget: int = 0,
) -> Trained:
    """Alternate rollouts and updates, from the last checkpoint if there is one; finally, restore the best actor.

    `collect(index, carry)` must depend only on its arguments and the networks, so that a resumed run gives the same
    numbers. `extra_actor_loss(index, minibatch)` is added to the actor's loss, such as the PTX loss of InstructGPT; of
    several ranks, each returns its own part. `after_update(index, collected)` may change the `moving_buffers` of the
    networks (`train/learned.py`), which must stay as they are within an update. An actor whose watched scores have
    fallen, as `stop` defines it, is not kept. If the loop is asked to stop (`runs/stop.py`), it ends after the update,
    with a checkpoint. The rollouts of the updates in `keep` are saved with what the update did to them
    (`train/ppo/kept.py`). With a `budget`, training ends after the update at which `carry["sampled_tokens"]` reaches
    it, whose rollout is saved too if any is, and the learning rate falls with these tokens, or with the updates if
    `config.num_updates` is nearer.
    """
    average = Average(learner.actor, config.ema_decay)
    restored = step.restore()
    if restored is None:
        state = _start(step, learner, average, validate, carry)
    else:
        state = State.load(*restored, learner, average)
    for index in deferring(range(state.done, config.num_updates)):
        if stop.reason(state.watched) or _share_done(state, config, budget) >= 1:
            break
        lr = _anneal(learner, _share_done(state, config, budget), config)
        collected = collect(index, state.carry)
        state.done, state.carry = index + 1, collected.carry
        is_over = _share_done(state, config, budget) >= 1
        keeps = state.done in keep or (is_over and len(keep) > 0)
        seen = Seen.nothing(collected.rollout, config.epochs) if keeps else None
        metrics = update(
            learner,
            collected.rollout,
            config,
            generator=generator(seed, "minibatches", index),
            train_actor=index >= config.critic_warmup_updates or not config.has_critic,
            extra_actor_loss=partial(extra_actor_loss, index) if extra_actor_loss else None,
            seen=seen,
        )
        if seen is not None:
            _keep(step, state.done, learner, collected, seen, config)
        if after_update is not None:
            after_update(index, collected)
        average.update()
        row = {f"ppo/{name}": value for name, value in (collected.metrics | metrics | {"lr": lr}).items()}
        if validates_after(state.done, config) or is_over:
            with average.in_place():
                now = validate()
                state.validated(now, learner.actor, max_kl=config.max_kl, stop=stop)
            row |= now.metrics
        is_last = is_over or bool(stop.reason(state.watched))
        step.log(state.done, row, seconds=collected.seconds)
        if state.done % samples_every == 0 or is_last:
            step.show(state.done, collected.samples)
        stops = parallel.stop_is_asked()
        if state.done % config.checkpoint_every == 0 or is_last or stops:
            parallel.check_alike(learner.modules)
            step.save(state.info(learner), state.checkpoint(learner, average).save)
        if stops:
            end()
    set_learning_state(learner.actor, state.best_state)
    falls = stop.reason(state.watched) if state.done < config.num_updates else {}
    shrinkage = Shrinkage.of(state.candidates, seed=seed) if state.candidates else None
    return Trained(state.best, Stopped(state.done, falls) if falls else None, shrinkage)


def validates_after(update: int, config: LoopConfig) -> bool:
    """Return True if the actor is validated after that update; update 0 is the start."""
    return update % config.eval_every == 0 or update == config.num_updates


def _share_done(state: State, config: LoopConfig, budget: int) -> float:
    """Return the share of the training that is done: of its updates, or of its budget of sampled tokens if more."""
    of_budget = state.carry["sampled_tokens"] / budget if budget else 0.0
    return max(of_budget, state.done / config.num_updates)


def _start(
    step: Step, learner: Learner, average: Average, validate: Callable[[], Validation], carry: Mapping[str, float]
) -> State:
    """Validate the initial actor, and log it as update 0."""
    with average.in_place():
        start = validate()
    require_scores(start.watched)
    state = State.at_start(start, learner.actor, carry)
    step.log(0, start.metrics)
    return state


def _keep(step: Step, done: int, learner: Learner, collected: Collected, seen: Seen, config: LoopConfig) -> None:
    """Save the rollout of an update, with what its optimizer steps saw and what the networks say after it."""
    after = outputs(learner.actor_critic, collected.rollout, config.micro_batch_size, has_critic=config.has_critic)
    step.keep(done, KeptRollout(collected.rollout, seen.of_all_ranks(), after, collected.own).save)


def _anneal(learner: Learner, share_done: float, config: LoopConfig) -> float:
    """Lower the learning rates linearly towards 0; return the actor's, which may also follow the KL."""
    remaining = 1 - share_done
    lr = config.lr * remaining * (learner.pace.share if learner.pace else 1.0)
    set_lr(learner.actor_optimizer, lr)
    if learner.critic_optimizer:
        set_lr(learner.critic_optimizer, config.critic_lr * remaining)
    return lr
