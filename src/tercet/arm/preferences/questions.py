"""Select questions for a teacher: random ones before PPO, then those on which the ensemble disagrees most."""

from dataclasses import dataclass
from math import ceil

import torch
from jaxtyping import Int
from torch import Tensor

from tercet.arm.networks.reward_ensemble import RewardEnsemble
from tercet.arm.play.episodes import Episodes
from tercet.arm.preferences.judge import call_judge
from tercet.arm.preferences.moments import moment_questions
from tercet.arm.preferences.pairs import (
    Pairs,
    Questions,
    disputed,
    doubted,
    frame_questions,
    judge_preferences,
    most_disputed,
    pairs_from_answers,
    pairs_from_marks,
    segment_questions,
    step_questions,
)
from tercet.config.arm import RewardConfig
from tercet.config.functions import PERSON, load_function
from tercet.train import chance

CANDIDATES = 10  # questions drawn per question that is asked
MOMENTS = 10  # judgements expected from a person per episode


@dataclass(frozen=True)
class Teacher:
    """Who judges a run's segments, and how: a function or a person, by the section `reward`."""

    config: RewardConfig
    env: str  # selects the instruction that a person reads
    seed: int

    @property
    def is_person(self) -> bool:
        """True if a person judges, False if a function does."""
        return asks_person(self.config)

    def generator(self, name: str) -> torch.Generator:
        """Return the generator for the questions of this name."""
        return chance.generator(self.seed, "questions", name)


def asks_person(config: RewardConfig) -> bool:
    """Return True if a person is the judge."""
    return config.judge == PERSON


def ask(
    episodes: Episodes,
    teacher: Teacher,
    num: int,
    *,
    name: str,
    model: RewardEnsemble | None = None,
    known: Pairs | None = None,
) -> Pairs:
    """Ask the function reward.judge for at most `num` judgements on these episodes; `known` are those of before."""
    config = teacher.config
    if config.feedback == "success":
        frames = frame_questions(episodes, num * CANDIDATES if model else num, teacher.generator(name))
        frames = frames.rows(doubted(frames, model).argsort(descending=True, stable=True)[:num]) if model else frames
        marks = (call_judge(load_function(config.judge), frames, config.judge) > 0.5).float()
        return pairs_from_marks(frames.states, marks, f"the judge {config.judge}", known)
    if config.feedback == "steps":
        questions = step_questions(episodes, num * CANDIDATES if model else num, teacher.generator(name))
        questions = most_disputed(questions, model, num) if model else questions
    else:
        questions = comparisons(episodes, teacher, num, name=name, model=model)
    preferences = judge_preferences(questions, load_function(config.judge), config.judge)
    states = questions.segments.states
    return pairs_from_answers(states[questions.first], states[questions.second], preferences, config.judge, known)


def comparisons(
    episodes: Episodes, teacher: Teacher, num: int, *, name: str, model: RewardEnsemble | None = None
) -> Questions:
    """Draw at most `num` comparisons of two segments; with `model`, those on which its members disagree most.

    No pair of segments is compared twice, so there can be fewer than `num`.
    """
    config = teacher.config
    drawn = segment_questions(
        episodes, config.segment_length, num * CANDIDATES, teacher.generator(name), same_episode=config.same_episode
    )
    questions = drawn.distinct()  # a repeated pair would be selected twice
    return most_disputed(questions, model, num) if model else questions.rows(torch.arange(min(num, len(questions))))


def choose_episodes(
    episodes: Episodes, teacher: Teacher, num: int, *, name: str, model: RewardEnsemble | None = None
) -> Int[Tensor, " m"]:
    """Choose rows of the episodes in which a person should mark about `num` moments, by the same rule."""
    num_rows = len(episodes.dense)
    if model is None:
        order = torch.randperm(num_rows, generator=teacher.generator(name))
    else:
        moments = moment_questions(episodes)
        row, doubts = moments.segments.row[moments.first, 0], disputed(moments, model)
        sums = torch.zeros(num_rows).index_add(0, row, doubts)
        counts = torch.zeros(num_rows).index_add(0, row, torch.ones_like(doubts))
        order = (sums / counts.clamp(min=1)).argsort(descending=True, stable=True)
    return order[: min(ceil(num / MOMENTS), num_rows)]
