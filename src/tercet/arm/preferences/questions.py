"""What a teacher is asked, and the answers: of the first episodes at random, later where the ensemble disagrees."""

from math import ceil

import torch
from jaxtyping import Int
from torch import Tensor

from tercet.arm.play.episodes import Episodes
from tercet.arm.policies.roles import RewardEnsemble
from tercet.arm.preferences.moments import about_moments
from tercet.arm.preferences.pairs import (
    Pairs,
    Questions,
    about_segments,
    about_steps,
    answered,
    by_judge,
    disagreement,
    most_disputed,
)
from tercet.config.arm import ArmConfig
from tercet.config.functions import PERSON, load_function
from tercet.train import chance

CANDIDATES = 10  # questions drawn for each one that is asked
MOMENTS = 10  # judgements that a person is expected to give while one episode plays


def asks_a_person(config: ArmConfig) -> bool:
    """Whether a person judges, and no function."""
    return config.reward.judge == PERSON


def ask(played: Episodes, config: ArmConfig, num: int, *, name: str, model: RewardEnsemble | None = None) -> Pairs:
    """At most `num` judgements by the function reward.judge on these episodes."""
    reward = config.reward
    if reward.feedback == "steps":
        draws = chance.generator(config.seed, "questions", name)
        questions = about_steps(played, num * CANDIDATES if model else num, draws)
        questions = most_disputed(questions, model, num) if model else questions
    else:
        questions = comparisons(played, config, num, name=name, model=model)
    preferences = by_judge(questions, load_function(reward.judge), reward.judge)
    states = questions.segments.states
    return answered(states[questions.first], states[questions.second], preferences, reward.judge)


def comparisons(
    played: Episodes, config: ArmConfig, num: int, *, name: str, model: RewardEnsemble | None = None
) -> Questions:
    """Which of two segments is better: any, or with `model` those on which its members disagree most.

    No two segments are compared twice, so there are fewer than `num` where the episodes have no more.
    """
    draws = chance.generator(config.seed, "questions", name)
    wanted, reward = num * CANDIDATES, config.reward
    drawn = about_segments(played, reward.segment_length, wanted, draws, same_episode=reward.same_episode)
    questions = drawn.distinct()  # the same two segments may be drawn again, and would be as disputed again
    return most_disputed(questions, model, num) if model else questions.rows(torch.arange(min(num, len(questions))))


def to_watch(
    played: Episodes, config: ArmConfig, num: int, *, name: str, model: RewardEnsemble | None = None
) -> Int[Tensor, " m"]:
    """Rows of the episodes in which a person is to find about `num` moments, chosen in the same way."""
    wanted = min(ceil(num / MOMENTS), len(played.dense))
    if model is None:
        order = torch.randperm(len(played.dense), generator=chance.generator(config.seed, "questions", name))
    else:
        moments = about_moments(played)
        row, apart = moments.segments.row[moments.first, 0], disagreement(moments, model)
        sums = torch.zeros(len(played.dense)).index_add(0, row, apart)
        counts = torch.zeros(len(played.dense)).index_add(0, row, torch.ones_like(apart))
        order = (sums / counts.clamp(min=1)).argsort(descending=True, stable=True)
    return order[:wanted]
