"""What a policy learns from demonstrations and from marked tries on an arm: steps, their returns and their weights."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor, nn

from tercet.arm.bc import Rows, rows_of
from tercet.arm.demonstrations.data import Demonstrations
from tercet.arm.networks.critic import new_critic
from tercet.arm.networks.layers import Scaled
from tercet.arm.policies.policy import Policy
from tercet.arm.robot.tries import MarkedTry
from tercet.config.arm import ImproveConfig, PolicyConfig
from tercet.core.advantages import returns_to_go
from tercet.core.awr import advantage_weights
from tercet.core.outcomes import outcomes
from tercet.train import chance
from tercet.train.fit import LossTerms, take_step
from tercet.train.optim import adamw, warmup_then_linear

GOOD, BAD = 1.0, -1.0
_VALUE_STEPS, _NUM_FOLDS = 300, 4  # optimizer steps of the value; critics, each without a fourth of the tries
_AT_ONCE = 256  # pictures that are encoded together


class Album:
    """Pictures of one camera, in as many tensors as there are demonstrations and tries.

    Those of stored tries are in files that are mapped into memory, and indexing copies the rows that it returns only.
    So thirty minutes of pictures need no more memory than the system has to spare.
    """

    def __init__(self, parts: Sequence[UInt8[Tensor, "_ h w 3"]]) -> None:
        self._parts = parts
        self._ends = torch.tensor([len(part) for part in parts]).cumsum(0)

    def __getitem__(self, rows: Int[Tensor, " b"]) -> UInt8[Tensor, "b h w 3"]:
        """Return the pictures with these numbers, counted over all parts."""
        which = torch.searchsorted(self._ends, rows, right=True)
        within = rows - torch.cat([torch.zeros(1, dtype=torch.long), self._ends])[which]
        chosen = zip(which.tolist(), within.tolist(), strict=True)
        return torch.stack([self._parts[part][row] for part, row in chosen])


@dataclass(frozen=True)
class Experience:
    """Every step that somebody steered, with its return, whether that was a person, and whether they showed how."""

    rows: Rows
    returns: Float[Tensor, " n"]
    by_person: Bool[Tensor, " n"]
    shown: Bool[Tensor, " n"]  # by a person, in a try or demonstration that was good
    numbers: Int[Tensor, " n"]  # of the try that the step belongs to
    albums: tuple[Album, ...] = ()  # of each camera, in the order of the rows

    def __len__(self) -> int:
        return len(self.rows)

    def pictures(self, rows: Int[Tensor, " b"]) -> tuple[UInt8[Tensor, "b _ _ 3"], ...]:
        """Return what each camera saw before these steps."""
        return tuple(album[rows] for album in self.albums)

    def micro_batches(self, chosen: Sequence[int], size: int) -> list[Rows]:
        """Split these rows, with their pictures, into parts of at most `size`."""
        parts = self.rows.micro_batches(chosen, size)
        numbers = torch.tensor(chosen, dtype=torch.long).split(size)
        return [replace(part, pictures=self.pictures(rows)) for part, rows in zip(parts, numbers, strict=False)]

    @torch.no_grad()
    def states(self, policy: Policy) -> Float[Tensor, "n s"]:
        """Return what a critic sees: observations, and what the policy's encoders see if they return features.

        On an arm that does not know where the cube is, only pictures show it.
        """
        if not policy.num_features:
            return self.rows.observations
        parts = torch.arange(len(self)).split(_AT_ONCE)
        seen = [torch.cat(policy.look(*self.pictures(rows)), -1) for rows in parts]
        return torch.cat([self.rows.observations, torch.cat(seen)], 1)


def experience_of(
    demonstrations: Demonstrations, tries: Sequence[MarkedTry], *, chunk: int, gamma: float
) -> Experience:
    """Collect the steps of demonstrations and tries. A row's next actions are those of whoever steered its step.

    A demonstration counts as a try of a person that was good, unless it is known to have failed.
    """
    lengths, num = demonstrations.mask.sum(1).tolist(), len(demonstrations)
    succeeded = torch.ones(num, dtype=torch.bool) if demonstrations.success is None else demonstrations.success
    parts = [
        (demonstrations.observations[i, :n], demonstrations.actions[i, :n], torch.ones(n, dtype=torch.bool))
        for i, n in enumerate(lengths)
    ] + [(one.observations, one.actions, one.by_person) for one in tries]
    marks = [*succeeded.tolist(), *(one.good for one in tries)]
    worth = [*(GOOD if good else BAD for good in succeeded.tolist()), *outcomes_of(tries).tolist()]
    observations, actions, by_person, returns = [], [], [], []
    for (states, moves, of_person), outcome in zip(parts, worth, strict=True):
        values_of_steps = returns_of(of_person, outcome=outcome, gamma=gamma)
        stretches = (of_person[1:] != of_person[:-1]).nonzero().flatten() + 1
        sizes = torch.diff(stretches, prepend=torch.tensor([0]), append=torch.tensor([len(states)])).tolist()
        for columns, values in (
            (observations, states),
            (actions, moves),
            (by_person, of_person),
            (returns, values_of_steps),
        ):
            columns += values.split(sizes)
    mask = torch.arange(max(map(len, returns))) < torch.tensor([len(one) for one in returns])[:, None]
    stacked = Demonstrations(_padded(observations, mask), _padded(actions, mask), mask)
    numbers = torch.arange(len(parts)).repeat_interleave(torch.tensor([len(states) for states, _, _ in parts]))
    steered = torch.cat(by_person)
    albums = [
        Album([*(images[i, :n] for i, n in enumerate(lengths)), *(one.pictures[camera] for one in tries)])
        for camera, images in enumerate(demonstrations.pictures)
    ]
    return Experience(
        rows_of(stacked, chunk),
        torch.cat(returns),
        steered,
        steered & torch.tensor(marks)[numbers],
        numbers,
        tuple(albums),
    )


def outcomes_of(tries: Sequence[MarkedTry]) -> Float[Tensor, " n"]:
    """Return what each try was worth: its mark, GOOD or BAD, refined where it was compared with the one before."""
    compared = [(index, one.better) for index, one in enumerate(tries) if one.better is not None]
    pairs = torch.tensor([[index - 1, index] for index, _ in compared], dtype=torch.long).reshape(-1, 2)
    marks = torch.tensor([GOOD if one.good else BAD for one in tries])
    return outcomes(marks, pairs, torch.tensor([better for _, better in compared]))


def returns_of(by_person: Bool[Tensor, " t"], *, outcome: float, gamma: float) -> Float[Tensor, " t"]:
    """Return the discounted return of each step of a try: its outcome at the end, and BAD where a person takes over.

    A takeover ends what the policy was doing, as a failure: what the person does from there is better. What the
    policy does after the person hands back counts for the person's steps too.
    """
    rewards, ends = torch.zeros(1, len(by_person)), torch.zeros(1, len(by_person), dtype=torch.bool)
    ends[0, :-1] = by_person[1:] & ~by_person[:-1]
    rewards[ends] = BAD
    ends[0, -1], rewards[0, -1] = True, outcome
    discounts, nothing = torch.full_like(rewards, gamma, dtype=torch.float64), torch.zeros_like(ends)
    return returns_to_go(rewards, discounts, ends, nothing, torch.ones_like(ends))[0]


def fit_values(
    experience: Experience, policy: Policy, sizes: PolicyConfig, config: ImproveConfig, *, seed: int
) -> Float[Tensor, " n"]:
    """Fit the value of states to the returns, and return it for every step.

    The value of a step comes from a critic that learned from other tries only. A critic that had seen the outcome of
    this very try would predict it, and every advantage would be near 0.
    """
    states = experience.states(policy)
    scaled = Scaled(states.shape[1])  # features are from -1 to 1
    for own, known in ((scaled.mean, policy.scaled.mean), (scaled.std, policy.scaled.std)):
        own[: len(known)] = known
    critics = nn.ModuleList(
        new_critic(scaled, sizes, seed=chance.integer(seed, "critic", fold)) for fold in range(_NUM_FOLDS)
    )
    folds = experience.numbers % _NUM_FOLDS
    optimizer = adamw(critics, lr=config.lr, weight_decay=config.weight_decay)
    generator = chance.generator(seed, "value")

    def loss(rows: Int[Tensor, " b"]) -> LossTerms:
        errors = torch.stack([critic(states[rows]) for critic in critics]) - experience.returns[rows]
        is_seen = folds[rows] != torch.arange(_NUM_FOLDS)[:, None]
        return LossTerms((errors.square() * is_seen).sum(), {})

    for index in range(_VALUE_STEPS):
        take_step(
            optimizer,
            [torch.randint(len(experience), (config.batch_size,), generator=generator)],
            count=len,
            loss=loss,
            lr=config.lr * warmup_then_linear(index, _VALUE_STEPS, config.warmup_fraction),
            max_grad_norm=config.max_grad_norm,
            loss_name=f"improve: the loss of the value at step {index}",
        )
    with torch.no_grad():
        return torch.stack([critic(states) for critic in critics]).gather(0, folds[None])[0]


def weights_of(experience: Experience, values: Float[Tensor, " n"], config: ImproveConfig) -> Float[Tensor, " n"]:
    """Return the weight with which a policy imitates each step: those that a person showed have the largest.

    Where a person could not save a try, their steps count as those of the policy do.
    """
    if config.learns_from == "person":
        return experience.by_person.float()
    weights = advantage_weights(experience.returns - values, beta=config.beta, cap=config.max_weight)
    return torch.where(experience.shown, config.max_weight, weights)


def weighted_plan(weights: Float[Tensor, " n"], config: ImproveConfig, *, seed: int) -> list[list[int]]:
    """Return the rows of each optimizer step, drawn in proportion to their weights.

    The loss of a row is the same for every kind of policy then, and an epoch draws as many rows as have a weight.
    """
    num_steps = -(-config.epochs * int((weights > 0).sum()) // config.batch_size)
    num_steps = min(num_steps, config.max_steps or num_steps)
    generator = chance.generator(seed, "weighted")
    return [
        torch.multinomial(weights.double(), config.batch_size, replacement=True, generator=generator).tolist()
        for _ in range(num_steps)
    ]


def _padded(parts: Sequence[Tensor], mask: Bool[Tensor, "n t"]) -> Float[Tensor, "n t _"]:
    padded = torch.zeros(*mask.shape, parts[0].shape[1])
    padded[mask] = torch.cat(list(parts))
    return padded
