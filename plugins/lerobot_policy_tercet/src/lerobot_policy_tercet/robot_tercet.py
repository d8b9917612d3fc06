"""Tercet's simulated arm as a robot of LeRobot, to rehearse lerobot-rollout: joints and images, as a real one has."""

from dataclasses import dataclass, field
from typing import Any

from lerobot.robots import Robot, RobotConfig

from tercet.arm.robot.calibration import KEYS
from tercet.arm.robot.simulated import SimulatedArm
from tercet.arm.sim.arms import find_arm
from tercet.config.load import load_robot_config


@RobotConfig.register_subclass("tercet_simulated")
@dataclass(kw_only=True)
class TercetSimulatedConfig(RobotConfig):
    """`--robot.type=tercet_simulated`: a task of the built-in arm, in the units of a preset or file of a robot."""

    task: str = "lift"
    robot: str = "simulated"
    views: list[str] = field(default_factory=list)  # its cameras: front, top, wrist
    seed: int = 0


class TercetSimulated(Robot):
    """The simulated arm. Each action is followed for 50 ms of simulated time."""

    config_class = TercetSimulatedConfig
    name = "tercet_simulated"

    def __init__(self, config: TercetSimulatedConfig) -> None:
        super().__init__(config)
        units = load_robot_config(config.robot, [])
        views = {name: name for name in config.views}
        arm = find_arm(units.model)
        self._arm = SimulatedArm(config.task, units.calibration, arm=arm, seed=config.seed, cameras=views)
        self.config, self.cameras = config, dict.fromkeys(views)

    @property
    def observation_features(self) -> dict[str, Any]:
        """The joints and the images: a real arm does not know cube and goal."""
        kept = (*KEYS, *self.cameras)
        return {name: kind for name, kind in self._arm.observation_features.items() if name in kept}

    @property
    def action_features(self) -> dict[str, Any]:
        """The joints."""
        return self._arm.action_features

    @property
    def is_connected(self) -> bool:
        """Whether `connect` was called last."""
        return self._arm.is_connected

    @property
    def is_calibrated(self) -> bool:
        """Its units are those of the file."""
        return True

    def connect(self, calibrate: bool = True) -> None:
        """Start the simulation."""
        self._arm.connect(calibrate)

    def calibrate(self) -> None:
        """Do nothing."""

    def configure(self) -> None:
        """Do nothing."""

    def get_observation(self) -> dict[str, Any]:
        """Return joints and images."""
        return {name: value for name, value in self._arm.get_observation().items() if name in self.observation_features}

    def send_action(self, action: dict[str, Any]) -> dict[str, Any]:
        """Move towards the joints for 50 ms."""
        return self._arm.send_action({key: float(action[key]) for key in KEYS})

    def disconnect(self) -> None:
        """End the simulation."""
        self._arm.disconnect()
