"""Record the steps that a person steers as demonstrations in LeRobot's format."""

from collections.abc import Callable
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np

from tercet.arm.demonstrations.recordings import TERCET_ACTION, TERCET_OBSERVATION
from tercet.arm.lerobot import frames
from tercet.arm.lerobot.layout import ACTION, IMAGES, STATE, Feature, Info, read_info
from tercet.arm.lerobot.read import Recording
from tercet.arm.lerobot.write import NewEpisode, append, open_for_append
from tercet.arm.robot.calibration import KEYS, to_values
from tercet.arm.robot.control import Tick
from tercet.arm.robot.pilot import wanted_action
from tercet.arm.sim.cameras import Picture, as_picture
from tercet.arm.sim.env import ACTION as MOVES
from tercet.arm.sim.physics import STEP_SECONDS
from tercet.arm.sim.tasks.task import Task
from tercet.arm.sim.units import SCALED
from tercet.config.robot import CalibrationConfig
from tercet.errors import InputError
from tercet.runs.screen import counted

_SHORTEST = 5  # steps; a shorter stretch is an accident


class DemonstrationRecorder:
    """Collect each stretch of steps in which a person steered, and write it as an episode.

    HG-DAgger (Kelly et al. 2019) learns from these: states that the policy reached, with actions of a person.
    Where the cube is not known, observations hold only what the arm measures on itself. Raise InputError if `folder`
    contains a different recording, or if videos cannot be written.
    """

    def __init__(
        self,
        folder: Path,
        task: Task,
        calibration: CalibrationConfig,
        *,
        robot_type: str,
        features: dict[str, Any],  # Any: LeRobot's; a type, or the shape of an image
        knows_cube: bool = True,
        say: Callable[[str], None],
    ) -> None:
        self.folder, self.num_written = folder, 0
        self._entries = [knows_cube or robot for robot in task.observation.robot]
        self._task, self._calibration, self._say = task, calibration, say
        self._cameras = {f"{IMAGES}.{key}": key for key, kind in features.items() if isinstance(kind, tuple)}
        pictures = {
            key: Feature("video", tuple(features[camera]), ("height", "width", "channels"))
            for key, camera in self._cameras.items()
        }
        numbers = {
            STATE: Feature("float32", (len(KEYS),), KEYS),
            ACTION: Feature("float32", (len(KEYS),), KEYS),
            TERCET_OBSERVATION: Feature(
                "float32", (sum(self._entries),), tuple(compress(task.observation.names, self._entries))
            ),
            TERCET_ACTION: Feature("float32", (len(MOVES),), MOVES, units=SCALED),
        }
        self._info = Info(round(1 / STEP_SECONDS, 6), {**numbers, **pictures}, robot_type)
        self._stretches: list[list[Tick]] = [[]]  # the last one is still growing
        existing = open_for_append(folder, self._info)
        if existing is not None:
            _refuse_stay(existing)
        if pictures:
            frames.pyav()

    def watch(self, tick: Tick) -> None:
        """Add a step. A stretch that led to a stop is dropped."""
        if any(reason.startswith("stopped") for reason in tick.reasons):
            self._stretches[-1] = []
        elif tick.who == "person" and tick.is_steered:
            self._stretches[-1].append(tick)
        elif self._stretches[-1]:
            self._stretches.append([])

    def finish(self, *, good: bool) -> None:
        """Write or drop the stretches since the last call, after a try, since encoding takes longer than a step."""
        stretches = [ticks for ticks in self._stretches if len(ticks) >= _SHORTEST]
        self._stretches = [[]]
        for ticks in stretches:
            if good:
                self._write(ticks)
            else:
                self._say(f"discarded: {len(ticks)} steps steered by a person")

    def summary(self) -> str:
        """Return a sentence with the number of demonstrations in the folder."""
        num = read_info(self.folder).num_episodes
        amount = counted(num, "demonstration")
        return f"{self.folder} contains {amount}; set bc.num_demonstrations={num} to learn from all of them"

    def _write(self, ticks: list[Tick]) -> None:
        columns = {
            STATE: self._values([tick.measured for tick in ticks]),
            ACTION: self._values([tick.sent for tick in ticks]),
            TERCET_OBSERVATION: np.stack([tick.observation for tick in ticks])[:, self._entries],
            TERCET_ACTION: np.stack(
                [wanted_action(tick.before, tick.wanted) for tick in ticks if tick.wanted is not None]
            ),
        }
        pictures = {
            key: [_picture(tick.robot_observation[camera], camera) for tick in ticks]
            for key, camera in self._cameras.items()
        }
        append(self.folder, self._info, [NewEpisode(self._task.name, columns, pictures)])
        self.num_written += 1
        self._say(f"saved: {len(ticks)} steps steered by a person, in {self.folder}")

    def _values(self, joints: list[np.ndarray]) -> np.ndarray:
        return np.array([list(to_values(one, self._calibration).values()) for one in joints])


def _refuse_stay(recording: Recording) -> None:
    """Raise InputError if closed or wide open fingers were kept so by "stay", as earlier versions recorded them."""
    at = list(recording.info.features[TERCET_OBSERVATION].names or ()).index("target_opening")
    for episode in recording.episodes([TERCET_OBSERVATION, TERCET_ACTION]):
        is_at_end = np.abs(episode.columns[TERCET_OBSERVATION][:, at]) == 1
        if (is_at_end & (episode.columns[TERCET_ACTION][:, -1] == 0)).any():
            raise InputError(
                f"{recording.path}: an earlier version recorded 0 where closed fingers were kept closed, and this one "
                "records -1; a mixture harms what learns from it, so give a new folder"
            )


def _picture(image: Any, camera: str) -> Picture:  # Any: what the robot returned
    picture = as_picture(np.asarray(image))
    if picture is None:
        raise InputError(f"camera {camera}: returned {type(image).__name__}, not an image (height, width, 3)")
    return picture
