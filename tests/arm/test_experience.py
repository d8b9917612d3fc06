"""Returns of marked tries, the value that has not seen them, and how often each step is drawn."""

import math
from dataclasses import replace

import pytest
import torch

from tercet.arm import experience as experiences
from tercet.arm.demonstrations.data import Demonstrations
from tercet.arm.experience import experience_of, fit_values, returns_of, weighted_plan, weights_of
from tercet.arm.policies.gaussian import GaussianPolicy
from tercet.arm.policies.policy import Sizes
from tercet.arm.robot.tries import MarkedTry
from tercet.config.arm import ImproveConfig, PolicyConfig

P, H = False, True  # steered by the policy, by the human


def marked(by_person: list[bool], *, good: bool, value: float = 0.0) -> MarkedTry:
    steps = len(by_person)
    numbers = torch.arange(steps)[:, None] + torch.tensor([value])
    return MarkedTry(numbers.float(), numbers.float() / 10, torch.tensor(by_person), good, good, steps, {})


@pytest.mark.parametrize(
    ("by_person", "good", "returns"),
    [
        ([P, P, P], True, [0.25, 0.5, 1.0]),
        ([P, P, P], False, [-0.25, -0.5, -1.0]),
        ([P, P, H, H], True, [-0.5, -1.0, 0.5, 1.0]),  # the takeover ends the policy's stretch as bad
        ([P, P, H, H], False, [-0.5, -1.0, -0.5, -1.0]),
        ([H, H, P, P], True, [0.125, 0.25, 0.5, 1.0]),  # handing back does not
        ([P, H, P, H], True, [-1.0, -0.5, -1.0, 1.0]),
    ],
)
def test_returns_by_hand(by_person: list[bool], good: bool, returns: list[float]) -> None:
    assert returns_of(torch.tensor(by_person), outcome=1.0 if good else -1.0, gamma=0.5).tolist() == returns


def test_rows_keep_their_order_and_a_chunk_ends_where_somebody_else_steers() -> None:
    demonstrations = Demonstrations(
        torch.full((1, 3, 1), 7.0), torch.full((1, 3, 1), 0.5), torch.tensor([[True, True, False]])
    )
    tries = [marked([P, P, H], good=True), marked([P, P], good=False, value=50.0)]
    experience = experience_of(demonstrations, tries, chunk=2, gamma=0.5)
    assert experience.rows.observations[:, 0].tolist() == [7.0, 7.0, 0.0, 1.0, 2.0, 50.0, 51.0]
    assert experience.by_person.tolist() == [H, H, P, P, H, P, P]
    assert experience.shown.tolist() == [H, H, P, P, H, P, P]
    assert experience.numbers.tolist() == [0, 0, 1, 1, 1, 2, 2]
    assert experience.returns.tolist() == [0.5, 1.0, -0.5, -1.0, 1.0, -0.5, -1.0]
    assert experience.rows.mask.tolist() == [
        [True, True],
        [True, False],  # the end of the demonstration
        [True, True],
        [True, False],  # the person takes over: their action is not the policy's next one
        [True, False],
        [True, True],
        [True, False],
    ]


def test_the_better_of_two_good_tries_is_worth_more_and_later_tries_are_as_marked() -> None:
    tries = [marked([P, P], good=True), replace(marked([P], good=True), better=1.0), marked([P], good=False)]
    one = Demonstrations(torch.ones(1, 1, 1), torch.ones(1, 1, 1), torch.ones(1, 1, dtype=torch.bool))
    demonstration, first, at_end, second, third = experience_of(one, tries, chunk=1, gamma=0.5).returns.tolist()
    assert demonstration == 1.0 and third == pytest.approx(-1.0)
    assert first == 0.5 * at_end and 0 < at_end < 0.5 < 1.5 < second


def test_pictures_follow_the_rows_of_demonstrations_and_tries() -> None:
    """Every picture holds the number of its row; the second demonstration step is padding."""

    def pictures(*numbers: int) -> torch.Tensor:
        return torch.tensor(numbers, dtype=torch.uint8)[:, None, None, None].expand(-1, 2, 4, 3)

    demonstrations = Demonstrations(
        torch.zeros(2, 2, 1),
        torch.zeros(2, 2, 1),
        torch.tensor([[True, False], [True, True]]),
        pictures=(torch.stack([pictures(0, 99), pictures(1, 2)]),),
    )
    tries = [
        replace(marked([P, H, P], good=True), pictures=(pictures(3, 4, 5),)),
        replace(marked([P], good=True), pictures=(pictures(6),)),
    ]
    experience = experience_of(demonstrations, tries, chunk=2, gamma=0.5)
    (seen,) = experience.pictures(torch.arange(7))
    assert seen.shape == (7, 2, 4, 3) and seen[:, 0, 0, 0].tolist() == list(range(7))
    batches = experience.micro_batches([6, 0, 4], 2)
    assert [part.pictures[0][:, 1, 3, 2].tolist() for part in batches] == [[6, 0], [4]]
    assert batches[1].observations[:, 0].tolist() == [1.0]  # the second step of the first try


def test_a_critic_sees_the_features_of_pictures_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the cube is not known, the observations of all tries are alike, and only pictures tell them apart."""
    monkeypatch.setattr(experiences, "_VALUE_STEPS", 60)
    eyes = Sees(Sizes(1, 1), hidden_size=4, num_layers=1, log_std=0.0)
    shades = [torch.full((5, 2, 2, 3), 255 * (i % 2), dtype=torch.uint8) for i in range(40)]
    tries = [
        replace(marked([P] * 5, good=bool(i % 2)), observations=torch.zeros(5, 1), pictures=(shade,))
        for i, shade in enumerate(shades)
    ]
    one = torch.ones(1, 1, dtype=torch.bool)
    nothing = torch.zeros(1, 1, 2, 2, 3, dtype=torch.uint8)
    demonstrations = Demonstrations(torch.zeros(1, 1, 1), torch.zeros(1, 1, 1), one, pictures=(nothing,))
    experience = experience_of(demonstrations, tries, chunk=1, gamma=1.0)
    assert experience.states(eyes).shape == (201, 2)
    config = ImproveConfig(batch_size=64, lr=1e-2)
    values = fit_values(experience, eyes, PolicyConfig(hidden_size=16), config, seed=0)
    assert 1 - (experience.returns - values).var() / experience.returns.var() > 0.9


class Sees(GaussianPolicy):
    """A policy whose encoder returns the brightness of a picture."""

    num_features = 1

    def look(self, *pictures: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return (pictures[0].float().mean((1, 2, 3))[:, None] / 255,)


def test_a_demonstration_that_failed_is_bad() -> None:
    ones, mask = torch.ones(2, 1, 1), torch.ones(2, 1, dtype=torch.bool)
    demonstrations = Demonstrations(ones, ones, mask, success=torch.tensor([True, False]))
    experience = experience_of(demonstrations, [], chunk=1, gamma=0.9)
    assert experience.returns.tolist() == [1.0, -1.0] and experience.shown.tolist() == [True, False]


def test_the_value_of_a_try_has_not_seen_its_outcome() -> None:
    """Tries with observations of their own and random marks: nothing can be known about one from the others."""
    chance = torch.Generator().manual_seed(0)
    states = torch.randn(40, 8, generator=chance)
    tries = [
        MarkedTry(state.repeat(5, 1), torch.zeros(5, 2), torch.zeros(5, dtype=torch.bool), bool(i % 2), True, 5, {})
        for i, state in enumerate(states[torch.randperm(40, generator=chance)])
    ]
    demonstrations = Demonstrations(torch.zeros(1, 1, 8), torch.zeros(1, 1, 2), torch.ones(1, 1, dtype=torch.bool))
    experience = experience_of(demonstrations, tries, chunk=1, gamma=1.0)
    config = ImproveConfig(batch_size=64)
    policy = GaussianPolicy(Sizes(8, 1), hidden_size=4, num_layers=1, log_std=0.0)
    values = fit_values(experience, policy, PolicyConfig(hidden_size=16), config, seed=0)
    explained = 1 - (experience.returns - values).var() / experience.returns.var()
    assert explained < 0.2  # a critic that has seen the marks explains all of it


def test_a_person_beats_the_policy_and_alone_counts_for_dagger() -> None:
    demonstrations = Demonstrations(torch.zeros(1, 1, 1), torch.zeros(1, 1, 1), torch.ones(1, 1, dtype=torch.bool))
    tries = [marked([P, P, H], good=True), marked([P, H], good=False)]  # in the second they could not help either
    experience = experience_of(demonstrations, tries, chunk=1, gamma=1.0)
    values = torch.tensor([0.0, 0.0, -1.0, 1.0, 0.0, 0.0])
    everything = ImproveConfig(learns_from="everything", beta=0.5, max_weight=20.0)
    expected = [20.0, math.exp(-2), 1.0, 20.0, math.exp(-2), math.exp(-2)]
    assert weights_of(experience, values, everything).tolist() == pytest.approx(expected)
    only_person = weights_of(experience, values, ImproveConfig(learns_from="person"))
    assert only_person.tolist() == [1.0, 0.0, 0.0, 1.0, 0.0, 1.0]


def test_rows_are_drawn_in_proportion_to_their_weights() -> None:
    config = ImproveConfig(batch_size=100, epochs=1000, max_steps=0)  # two rows have a weight
    plan = weighted_plan(torch.tensor([0.0, 1.0, 3.0]), config, seed=0)
    assert len(plan) == 20 and {len(rows) for rows in plan} == {100}
    drawn = torch.bincount(torch.tensor(plan).flatten(), minlength=3) / 2000
    assert drawn.tolist() == pytest.approx([0.0, 0.25, 0.75], abs=0.04)
    assert plan == weighted_plan(torch.tensor([0.0, 1.0, 3.0]), config, seed=0)
    assert len(weighted_plan(torch.ones(3), config.model_copy(update={"max_steps": 7}), seed=0)) == 7
