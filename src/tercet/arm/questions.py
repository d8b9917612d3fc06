"""What a teacher is asked, and the answers: of the first episodes at random, later where the ensemble disagrees."""

from collections.abc import Sequence

from tercet.arm.episodes import Episodes
from tercet.arm.models import RewardEnsemble
from tercet.arm.pairs import Pairs, about_segments, about_steps, answered, most_disputed
from tercet.config.arm import ArmConfig
from tercet.config.functions import load_function
from tercet.train import chance

CANDIDATES = 10  # questions looked at for each one that is asked in a round


def ask(
    played: Sequence[Episodes], config: ArmConfig, num: int, *, name: str, model: RewardEnsemble | None = None
) -> Pairs:
    """At most `num` judgements on these episodes: any, or with `model` those on which its members disagree most."""
    reward, draws = config.reward, chance.generator(config.seed, "questions", name)
    wanted = num * CANDIDATES if model else num
    if reward.feedback == "steps":
        questions = about_steps(played, wanted, draws)
    else:
        questions = about_segments(played, reward.segment_length, wanted, draws)
    if model is not None:
        questions = most_disputed(questions, model, num)
    return answered(questions, load_function(reward.judge), reward.judge)
