"""The reward model of a PPO run that asks again: judgements on the policy's own segments, in rounds.

A reward model that has only seen where the policy once was is wrong about where it goes. So every `reward.round_every`
updates, `reward.num_rounds` times, new questions are asked about the latest rollout, where the ensemble disagrees most,
and the ensemble is learned anew from all judgements so far (Christiano et al. 2017; Lee et al. 2021).
"""

from pathlib import Path

from tercet.arm.play.footage import Footage
from tercet.arm.policies.roles import RewardEnsemble, Sizes, load_reward_model
from tercet.arm.preferences import human
from tercet.arm.preferences.ensemble import fitted
from tercet.arm.preferences.pairs import Pairs, joined, load_pairs
from tercet.arm.preferences.questions import ask, asks_a_person
from tercet.config.arm import ArmConfig
from tercet.runs.folder import RunFolder
from tercet.runs.kept import is_kept, keep_folder


class Rounds:
    """The reward model at any update; what a round made lies in `folder`, so that a run that goes on finds it."""

    def __init__(self, folder: Path, start: RewardEnsemble, first: Pairs, config: ArmConfig, sizes: Sizes) -> None:
        self.folder, self.config, self.sizes = folder, config, sizes
        self.start, self._first = start, first
        self._number, self._model = 0, start

    def at(self, index: int, footage: Footage) -> RewardEnsemble:
        """The model that pays the rollout of that update, which `footage` shows; asks first where a round begins.

        WaitingError while a person is asked.
        """
        every = self.config.reward.round_every
        number = min(index // every, self.config.reward.num_rounds)
        if number and index == number * every:
            self._ask(number, footage)
        if number != self._number:
            self._number, self._model = number, self._before(number + 1)
        return self._model

    def asked(self) -> dict[str, int]:
        """How many rounds a whole run has had, and the judgements in all of them."""
        places = [self._place(number) for number in range(1, last_round(self.config) + 1)]
        return {"num": len(places), "num_pairs": sum(len(load_pairs(place / "pairs.safetensors")) for place in places)}

    def _ask(self, number: int, footage: Footage) -> None:
        reward, seed = self.config.reward, self.config.seed
        pairs = self._told(number, footage)
        known = [self._first, *(load_pairs(self._kept(i) / "pairs.safetensors") for i in range(1, number))]
        model = fitted(joined([*known, pairs]), reward, seed=seed, name=f"round {number}")

        def write(partial: Path) -> None:
            model.save(partial)
            pairs.save(partial / "pairs.safetensors")

        keep_folder(self.folder, self._place(number).name, write)

    def _told(self, number: int, footage: Footage) -> Pairs:
        config, num, name = self.config, self.config.reward.pairs_per_round, f"round {number}"
        if not asks_a_person(config):
            return ask(footage.episodes(), config, num, name=name, model=self._before(number))
        place = human.place(self.folder.parent, f"round-{number}")
        if not place.exists():
            human.put(place, footage, config, num, name=name, model=self._before(number))
        return human.told([place])[0]

    def _before(self, number: int) -> RewardEnsemble:
        """The model that the round before `number` made."""
        return load_reward_model(self._kept(number - 1), self.sizes) if number > 1 else self.start

    def _kept(self, number: int) -> Path:
        """The place of a round that is over; FailedError where it is not as it was."""
        place = self._place(number)
        is_kept(self.folder, place.name)
        return place

    def _place(self, number: int) -> Path:
        return self.folder / f"round-{number}"


def last_round(config: ArmConfig) -> int:
    """The number of the last round of a whole run, 0 where it has none."""
    return min((config.ppo.num_updates - 1) // config.reward.round_every, config.reward.num_rounds)


def latest_model(folder: RunFolder, config: ArmConfig, sizes: Sizes) -> RewardEnsemble:
    """The reward model that PPO was last paid by."""
    number = last_round(config)
    place = folder.path / "ppo" / f"round-{number}" if number else folder.path / "reward" / "model"
    return load_reward_model(place, sizes)
