"""`tercet inspect DIR` of an arm's run: its kept rollouts, decision by decision, with a picture of each."""

import base64
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from io import BytesIO
from itertools import accumulate

import torch
from PIL import Image

from tercet.arm.kept import Retraced
from tercet.arm.play.environments import EnvFactory
from tercet.arm.play.footage import Footage
from tercet.arm.play.video import Picture
from tercet.config.arm import ArmConfig
from tercet.config.load import recorded_config
from tercet.errors import InputError
from tercet.runs.folder import RunFolder
from tercet.train.ppo.explain import explain
from tercet.train.ppo.inspection import MOST_ROWS, SETTINGS, KeptUpdates, Tree, inner_clips, numbers, short

_FILMS = 64  # episodes whose pictures are kept in memory, about half a megabyte each


class Inspection:
    """The kept rollouts of a run."""

    def __init__(self, folder: RunFolder) -> None:
        """Find the rollouts; raise InputError if there are none."""
        self.config = recorded_config(ArmConfig, folder.config_dict, folder.path)
        self.updates = KeptUpdates(folder, ["ppo"], self.config.ppo)
        self._retraced = lru_cache(maxsize=4)(lambda name: Retraced.of(self.updates.load(name)))
        self._filmed = lru_cache(maxsize=_FILMS)(self._film)
        self._camera = ThreadPoolExecutor(max_workers=1)  # an OpenGL context belongs to the thread that made it

    def about(self) -> Tree:
        """Return what the page needs once."""
        return self.updates.about() | {"kind": "arm"}

    def update(self, name: str, epoch: int | None, settings: Mapping[str, float]) -> Tree:
        """Return all about an update; `settings` replace those of the run. InputError if there is no such update."""
        self.updates.load(name, epoch)
        retraced = self._retraced(name)
        ppo = self.config.ppo.model_copy(update={n: v for n, v in settings.items() if n in SETTINGS})
        kl_coef = settings.get("kl_coef", retraced.kl_coef)  # it decays over ppo.kl_anneal_updates
        kept, means = retraced.with_settings(ppo, kl_coef)
        trains_actor = self.updates.trains_actor(name)
        found = explain(kept, ppo, epoch=epoch, trains_actor=trains_actor)
        rows = numbers(kept.rollout, found, kl_coef=kl_coef if ppo.kl_penalty == "reward" else 0.0)
        return {
            "name": name,
            "kl_coef": kl_coef,
            "trains_actor": trains_actor,
            "used_epochs": kept.seen.used_epochs(),
            "num_rows": len(kept.rollout.mask),
            "inner": inner_clips(kept.rollout, ppo),
            "metrics": self.updates.beside_log(name, found.metrics | means),
            "rows": [self._about(retraced, row, len(columns["reward"])) | columns for row, columns in enumerate(rows)],
        }

    def _about(self, retraced: Retraced, row: int, num: int) -> Tree:
        """Return the start of a row, the steps of its decisions, and how it ended."""
        lengths = retraced.assessed.decisions.lengths[row, :num].tolist()
        ends = list(accumulate(lengths))
        begins = [end - length + 1 for end, length in zip(ends, lengths, strict=True)]
        spans = zip(begins, ends, strict=True)
        return {
            "prompt": str(row // self.updates.about()["group_size"] + 1),
            "tokens": [str(end) if begin == end else f"{begin}-{end}" for begin, end in spans],
            "length": lengths,
            "frames": [end - 1 for end in ends],  # the last step of each decision
            "ended": bool(retraced.played.episodes.succeeded()[row]),
            "score": short(float(retraced.rewards.scores()[row])),
        }

    def pictures(self, name: str, row: int) -> list[str]:
        """Return a picture after each step of a row as data URLs: the row is played again in front of a camera.

        Raise InputError if there is no such row, FailedError if it cannot be drawn.
        """
        num = min(len(self.updates.load(name).rollout.mask), MOST_ROWS)
        if not 0 <= row < num:
            raise InputError(f"row {row}: update {name} shows rows 0 to {num - 1}")
        return self._camera.submit(self._filmed, name, row).result()

    def _film(self, name: str, row: int) -> list[str]:
        retraced, size = self._retraced(name), self.updates.about()["group_size"]
        episodes = retraced.played.episodes
        of_member = episodes.rows(torch.arange(row % size, len(episodes.dense), size))  # one of each group
        steps = range(episodes.dense.shape[1])
        with EnvFactory.of(self.config).open(len(of_member.dense)) as env:
            footage = Footage(env, [of_member], [int(retraced.kept.own["seed"])], range(len(of_member.dense)))
            ((_, images),) = footage.film({row // size: steps})
        return [_as_url(images[step]) for step in steps]


def _as_url(picture: Picture) -> str:
    file = BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=82)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
