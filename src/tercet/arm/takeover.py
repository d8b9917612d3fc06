"""What a person showed while steering, kept as demonstrations in LeRobot's format."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tercet.arm.calibration import KEYS, to_values
from tercet.arm.control import Tick
from tercet.arm.env import ACTION as MOVES
from tercet.arm.lerobot.layout import ACTION, IMAGES, STATE, Feature, Info
from tercet.arm.lerobot.write import NewEpisode, append
from tercet.arm.physics import STEP_SECONDS
from tercet.arm.pilot import action_between
from tercet.arm.recordings import OURS_DONE, OURS_SEEN
from tercet.arm.tasks import Task, observed
from tercet.config.robot import CalibrationConfig

_SHORTEST = 5  # steps; less is a slip of the finger


class Keeper:
    """Watches a drive, and writes each stretch that a person steers as an episode, once it ends.

    HG-DAgger (Kelly et al. 2019) learns from just these: states that the policy led to, answered by a person.
    """

    def __init__(
        self,
        folder: Path,
        task: Task,
        calibration: CalibrationConfig,
        *,
        robot_type: str,
        features: dict[str, Any],  # Any: LeRobot's; a type, or a picture's shape
        say: Callable[[str], None],
    ) -> None:
        self.folder, self.kept = folder, 0
        self._task, self._calibration, self._say = task, calibration, say
        self._cameras = {f"{IMAGES}.{key}": key for key, kind in features.items() if isinstance(kind, tuple)}
        pictures = {
            key: Feature("video", tuple(features[camera]), ("height", "width", "channels"))
            for key, camera in self._cameras.items()
        }
        numbers = {
            STATE: Feature("float32", (len(KEYS),), KEYS),
            ACTION: Feature("float32", (len(KEYS),), KEYS),
            OURS_SEEN: Feature("float32", (len(observed(task)),), observed(task)),
            OURS_DONE: Feature("float32", (len(MOVES),), MOVES),
        }
        self._info = Info(round(1 / STEP_SECONDS, 6), {**numbers, **pictures}, robot_type)
        self._ticks: list[Tick] = []

    def watch(self, tick: Tick) -> None:
        """Take in a step."""
        if tick.who == "person" and not any(reason.startswith("stopped") for reason in tick.reasons):
            self._ticks.append(tick)
        else:
            self.finish()

    def finish(self) -> None:
        """Write what the person has shown since they took over."""
        ticks, self._ticks = self._ticks, []
        if len(ticks) < _SHORTEST:
            return
        columns = {
            STATE: self._values([tick.measured for tick in ticks]),
            ACTION: self._values([tick.sent for tick in ticks]),
            OURS_SEEN: np.stack([tick.observation for tick in ticks]),
            OURS_DONE: np.stack([action_between(tick.before, tick.sent) for tick in ticks]),
        }
        pictures = {key: [np.asarray(tick.seen[camera]) for tick in ticks] for key, camera in self._cameras.items()}
        append(self.folder, self._info, [NewEpisode(self._task, columns, pictures)])
        self.kept += 1
        self._say(f"kept: {len(ticks)} steps of a person's, in {self.folder}")

    def _values(self, joints: list[np.ndarray]) -> np.ndarray:
        return np.array([list(to_values(one, self._calibration).values()) for one in joints])
