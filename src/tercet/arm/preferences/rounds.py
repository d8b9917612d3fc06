"""Update the reward model during PPO, in rounds of new judgements on segments of the current policy.

A reward model is wrong about states that it was not trained on, and PPO moves the policy there. So every
`reward.round_every` updates, `reward.num_rounds` times, new questions are asked about the latest rollout, where the
ensemble disagrees most, and the ensemble is trained again on all judgements (Christiano et al. 2017; Lee et al. 2021).
"""

from pathlib import Path

from tercet.arm.networks.reward_ensemble import RewardEnsemble, load_reward_model
from tercet.arm.networks.sizes import Sizes
from tercet.arm.play.footage import Footage
from tercet.arm.preferences import human
from tercet.arm.preferences.ensemble import fit_ensemble
from tercet.arm.preferences.pairs import Pairs, join_pairs, load_pairs
from tercet.arm.preferences.questions import Teacher, ask
from tercet.config.arm import RewardConfig
from tercet.runs.intermediate import is_kept, keep_folder
from tercet.runs.progress import say
from tercet.runs.ranks import share
from tercet.runs.screen import counted


class Rounds:
    """Provide the reward model of every update. Each round is saved in `folder`, from which a resumed run loads it."""

    def __init__(self, folder: Path, start: RewardEnsemble, first: Pairs, teacher: Teacher, sizes: Sizes) -> None:
        self.folder, self.teacher, self.sizes = folder, teacher, sizes
        self.start, self._first_pairs = start, first
        self._number, self._model = 0, start

    def model_at(self, index: int, footage: Footage) -> RewardEnsemble:
        """Return the reward model for the rollout of that update, which `footage` shows.

        Asks new questions first if a round begins at this update. WaitingError if a person has questions to answer.
        """
        every = self.teacher.config.round_every
        number = min(index // every, self.teacher.config.num_rounds)
        if number and index == number * every:
            self._run_round(number, footage)
        if number != self._number:
            self._number, self._model = number, self._model_of(number)
        return self._model

    def summary(self, num_updates: int) -> dict[str, int]:
        """Return the number of rounds of a complete run, and of their judgements."""
        num = last_round(self.teacher.config, num_updates)
        files = [self._folder_of(number) / "pairs.safetensors" for number in range(1, num + 1)]
        return {"num": num, "num_pairs": sum(len(load_pairs(file)) for file in files)}

    def _run_round(self, number: int, footage: Footage) -> None:
        pairs = self._ask(number, footage)
        if not len(pairs.without_ties()):
            given = f"all {counted(len(pairs), 'judgement')} are ties" if len(pairs) else "there are no judgements"
            say(f"ppo: round {number}: {given}, so the order of the earlier ones stands; PPO goes on")
        earlier = [load_pairs(self._checked_folder(i) / "pairs.safetensors") for i in range(1, number)]
        all_pairs = join_pairs([self._first_pairs, *earlier, pairs]).to(self.start.device)
        model = fit_ensemble(all_pairs, self.teacher.config, seed=self.teacher.seed, name=f"round {number}")

        def write(partial: Path) -> None:
            model.save(partial)
            pairs.save(partial / "pairs.safetensors")

        keep_folder(self.folder, self._folder_of(number).name, write)

    def _ask(self, number: int, footage: Footage) -> Pairs:
        num, name = self.teacher.config.pairs_per_round, f"round {number}"
        model = self._model_of(number - 1)
        if not self.teacher.is_person:
            return ask(footage.episodes(), self.teacher, num, name=name, model=model, known=self._first_pairs)
        sheet = human.sheet_folder(self.folder.parent, f"round-{number}")

        def answered() -> Pairs:
            if not sheet.exists():
                human.write_questions(sheet, footage, self.teacher, num, name=name, model=model)
            return human.read_pairs([sheet], self.teacher.config.feedback, self._first_pairs)[0]

        return share(answered)

    def _model_of(self, number: int) -> RewardEnsemble:
        """Load the model of that round; round 0 is the model of step 2."""
        if not number:
            return self.start
        return load_reward_model(self._checked_folder(number), self.sizes).to(self.start.device)

    def _checked_folder(self, number: int) -> Path:
        """Return the folder of a finished round; FailedError if its files were changed."""
        folder = self._folder_of(number)
        is_kept(self.folder, folder.name)
        return folder

    def _folder_of(self, number: int) -> Path:
        return self.folder / f"round-{number}"


def last_round(config: RewardConfig, num_updates: int) -> int:
    """Return the number of the last round of a complete run, 0 if it has none."""
    return min((num_updates - 1) // config.round_every, config.num_rounds)


def latest_model(run: Path, config: RewardConfig, sizes: Sizes, *, num_updates: int) -> RewardEnsemble:
    """Load the reward model of the last update."""
    number = last_round(config, num_updates)
    return load_reward_model(run / "ppo" / f"round-{number}" if number else run / "reward" / "model", sizes)
