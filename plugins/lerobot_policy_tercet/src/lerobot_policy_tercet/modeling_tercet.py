"""An exported policy as LeRobot runs it: one `ExportedPolicy` steers each robot or environment of a batch."""

from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from lerobot.configs import PreTrainedConfig
from lerobot.policies.pretrained import PreTrainedPolicy
from lerobot.utils.constants import OBS_ENV_STATE, OBS_IMAGES, OBS_STATE
from torch import Tensor

from lerobot_policy_tercet.configuration_tercet import TercetConfig
from tercet.arm.robot.calibration import KEYS
from tercet.arm.robot.exported import CUBE_AND_GOAL, ExportedPolicy

_NOT_TRAINED = "policies of Tercet are trained by `tercet arm run`, and only run here"


class TercetPolicy(PreTrainedPolicy):
    """Joints and images in, joints out, all in the robot's units. Each command has passed Tercet's guard."""

    config_class = TercetConfig
    name = "tercet"

    def __init__(self, config: TercetConfig, **rest: Any) -> None:  # Any: what LeRobot also gives to policies
        super().__init__(config)
        self._folder = Path(str(config.pretrained_path)) if config.pretrained_path else None
        self._robots: list[ExportedPolicy] = []

    @classmethod
    def from_pretrained(  # type: ignore[override]  # it has no weights of its own
        cls,
        pretrained_name_or_path: str | Path,
        *,
        config: PreTrainedConfig | None = None,
        revision: str | None = None,
        **rest: Any,  # Any: LeRobot's options of downloads
    ) -> "TercetPolicy":
        """Load an exported folder, or that of a hub id."""
        folder = Path(pretrained_name_or_path)
        if not folder.is_dir():
            folder = Path(snapshot_download(str(pretrained_name_or_path), revision=revision))
        config = config or PreTrainedConfig.from_pretrained(folder)
        config.pretrained_path = folder
        policy = cls(config)
        policy._robots = [policy._load()]  # a damaged folder is named now, not in the first step
        return policy.eval()

    def reset(self) -> None:
        """Start an episode."""
        for robot in self._robots:
            robot.reset()

    @torch.no_grad()
    def select_action(self, batch: dict[str, Tensor], **rest: Any) -> Tensor:  # Any: LeRobot's options
        """Return the joints to send (b, 6)."""
        states = batch[OBS_STATE]
        while len(self._robots) < len(states):
            self._robots.append(self._load())
        rows = [
            list(robot.command(_observation(batch, row)).values())
            for row, robot in enumerate(self._robots[: len(states)])
        ]
        return torch.tensor(rows, dtype=torch.float32, device=states.device)

    def predict_action_chunk(self, batch: dict[str, Tensor], **rest: Any) -> Tensor:  # Any: LeRobot's options
        """Return the joints to send as a chunk of one (b, 1, 6): the next ones depend on where the arm then is."""
        return self.select_action(batch)[:, None]

    def forward(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict | None]:
        """Refuse to train."""
        raise NotImplementedError(_NOT_TRAINED)

    def get_optim_params(self) -> dict:
        """Refuse to train."""
        raise NotImplementedError(_NOT_TRAINED)

    def _load(self) -> ExportedPolicy:
        if self._folder is None:
            raise ValueError("a policy of Tercet is loaded from a folder of `tercet arm export`: give --policy.path")
        return ExportedPolicy(self._folder, self.config.task)


def _observation(batch: dict[str, Tensor], row: int) -> dict[str, Any]:  # Any: numbers and images
    """Return what the robot of this row observes, under the names of its driver."""
    observation: dict[str, Any] = dict(zip(KEYS, batch[OBS_STATE][row].tolist(), strict=True))
    if OBS_ENV_STATE in batch:
        observation |= dict(zip(CUBE_AND_GOAL, batch[OBS_ENV_STATE][row].tolist(), strict=True))
    for key, images in batch.items():
        if key.startswith(f"{OBS_IMAGES}."):
            picture = (255 * images[row]).round().clamp(0, 255).to(torch.uint8)
            observation[key.removeprefix(f"{OBS_IMAGES}.")] = picture.permute(1, 2, 0).cpu().numpy()
    return observation
