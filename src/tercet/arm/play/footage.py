"""Images of episodes that were already played: the same starts and actions are played again with a camera."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from gymnasium.vector import VectorEnv
from torch import Tensor

from tercet.arm.play.episodes import Episodes, play_turn, turns
from tercet.arm.play.video import HEIGHT, WIDTH, Picture
from tercet.errors import FailedError

AT_A_TIME = 16  # episodes whose images are in memory together: 60 images of 320 x 240 are 14 MB


@dataclass(frozen=True)
class Footage:
    """Sets of episodes from one environment, the seed of each set's starts, and the selected rows.

    `rows` are numbered through all sets. Episodes are identified by their index in `rows`.
    """

    env: VectorEnv
    sets: Sequence[Episodes]
    seeds: Sequence[int]
    rows: Sequence[int]

    def episodes(self) -> Episodes:
        """Return the selected episodes."""
        return Episodes.joined(self.sets).rows(torch.tensor(self.rows))

    def film(self, wanted: Mapping[int, Collection[int]]) -> Iterator[tuple[int, dict[int, Picture]]]:
        """Yield the images of these episodes after the wanted steps: `wanted` maps an index to its steps.

        FailedError without OpenGL, or if the environment gives other observations the second time.
        """
        num = len(self.sets[0].dense)
        for number, (episodes, seed) in enumerate(zip(self.sets, self.seeds, strict=True)):
            indices = [index for index in sorted(wanted) if self.rows[index] // num == number]
            for start in range(0, len(indices), AT_A_TIME):
                part = indices[start : start + AT_A_TIME]
                steps = {self.rows[index] % num: wanted[index] for index in part}
                yield from zip(part, self._film_rows(episodes, seed, steps), strict=True)

    def _film_rows(
        self, episodes: Episodes, seed: int, wanted: Mapping[int, Collection[int]]
    ) -> list[dict[int, Picture]]:
        """Return the images of these rows of one set, by step."""
        images: dict[int, dict[int, Picture]] = {row: {} for row in wanted}
        horizon = episodes.dense.shape[1]
        for rows in turns(len(episodes.dense), self.env.num_envs):
            filmed = [row for row in wanted if rows.start <= row < rows.stop]

            def act(step: int, observations: Tensor, fresh: Tensor, rows: slice = rows) -> Tensor:
                return episodes.actions[rows, step]

            def watch(step: int, filmed: list[int] = filmed, first: int = rows.start) -> None:
                for row in filmed:
                    if step in wanted[row]:
                        image = self.env.render(row - first, WIDTH, HEIGHT)  # type: ignore[call-arg]  # as in video.film
                        images[row][step] = image

            if not filmed:
                continue
            replayed = play_turn(self.env, act, rows, horizon=horizon, seed=seed, watch=watch)
            if not torch.equal(replayed.next_observations, episodes.next_observations[rows]):
                raise FailedError(
                    "the environment gives other observations for the same seed and actions, so episodes cannot be "
                    "shown to a person; if reward.judge is person, set it to a function"
                )
        return list(images.values())
