"""Episodes seen again: the same starts and actions once more, with a camera."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from gymnasium.vector import VectorEnv
from torch import Tensor

from tercet.arm.play.episodes import Episodes, play_turn, turns
from tercet.arm.play.video import HEIGHT, WIDTH, Picture
from tercet.errors import FailedError

AT_A_TIME = 16  # episodes whose pictures are in memory together: 60 of 320 x 240 each are 14 MB


@dataclass(frozen=True)
class Footage:
    """Sets of episodes that one environment played, the seed of each set's starts, and the rows that matter.

    `rows` counts through all sets; what is filmed is named by its place in `rows`.
    """

    env: VectorEnv
    sets: Sequence[Episodes]
    seeds: Sequence[int]
    rows: Sequence[int]

    def episodes(self) -> Episodes:
        """Those of `rows`."""
        return Episodes.joined(self.sets).rows(torch.tensor(self.rows))

    def film(self, wanted: Mapping[int, Collection[int]]) -> Iterator[tuple[int, dict[int, Picture]]]:
        """Of each place that is wanted, the pictures after its wanted steps.

        FailedError without OpenGL, or where the environment plays differently the second time.
        """
        num = len(self.sets[0].dense)
        for number, (episodes, seed) in enumerate(zip(self.sets, self.seeds, strict=True)):
            inside = [place for place in sorted(wanted) if self.rows[place] // num == number]
            for start in range(0, len(inside), AT_A_TIME):
                part = inside[start : start + AT_A_TIME]
                steps = {self.rows[place] % num: wanted[place] for place in part}
                yield from zip(part, self._again(episodes, seed, steps), strict=True)

    def _again(self, episodes: Episodes, seed: int, wanted: Mapping[int, Collection[int]]) -> list[dict[int, Picture]]:
        """Of each row of one set."""
        taken: dict[int, dict[int, Picture]] = {row: {} for row in wanted}
        horizon = episodes.dense.shape[1]
        for rows in turns(len(episodes.dense), self.env.num_envs):
            some = [row for row in wanted if rows.start <= row < rows.stop]

            def act(step: int, seen: Tensor, fresh: Tensor, rows: slice = rows) -> Tensor:
                return episodes.actions[rows, step]

            def watch(step: int, some: list[int] = some, first: int = rows.start) -> None:
                for row in some:
                    if step in wanted[row]:
                        picture = self.env.render(row - first, WIDTH, HEIGHT)  # type: ignore[call-arg]  # as in video.film
                        taken[row][step] = picture

            if not some:
                continue
            again = play_turn(self.env, act, rows, horizon=horizon, seed=seed, watch=watch)
            if not torch.equal(again.next_observations, episodes.next_observations[rows]):
                raise FailedError(
                    "the environment plays differently from the same seed and actions, so that nobody can be shown "
                    "what happened; set reward.judge to a function in place of a person"
                )
        return list(taken.values())
