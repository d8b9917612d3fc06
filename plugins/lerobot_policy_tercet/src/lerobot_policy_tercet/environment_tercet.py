"""Tercet's simulated arm as an environment of LeRobot: joints in the robot's units, images, cube and goal."""

from dataclasses import dataclass, field
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict
from lerobot.configs import FeatureType, PolicyFeature
from lerobot.envs.configs import EnvConfig
from lerobot.utils.constants import ACTION, OBS_ENV_STATE, OBS_IMAGES, OBS_STATE

from tercet.arm.robot.calibration import KEYS
from tercet.arm.robot.exported import CUBE_AND_GOAL
from tercet.arm.robot.simulated import SimulatedArm
from tercet.arm.sim.arms import find_arm
from tercet.arm.sim.physics import STEP_SECONDS
from tercet.config.load import load_robot_config

_HEIGHT, _WIDTH = 240, 320  # of what SimulatedArm renders
_ID = "lerobot_policy_tercet/arm-v0"


class TercetEnv(gymnasium.Env):
    """One arm at a task. Success at the last step of an episode counts, as in Tercet."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": round(1 / STEP_SECONDS)}
    render_mode = "rgb_array"

    def __init__(self, task: str, robot: str, cameras: tuple[str, ...], episode_length: int) -> None:
        config = load_robot_config(robot, [])
        self.task, self.task_description, self._max_episode_steps = task, task, episode_length
        cameras_by_name = {name: name for name in cameras}
        self._arm = SimulatedArm(task, config.calibration, arm=find_arm(config.model), cameras=cameras_by_name)
        self._arm.connect()
        self._cameras, self._step = cameras, 0
        wide = {"agent_pos": len(KEYS), "environment_state": len(CUBE_AND_GOAL)}
        spaces: dict[str, gymnasium.Space] = {name: Box(-np.inf, np.inf, (size,)) for name, size in wide.items()}
        if cameras:
            spaces["pixels"] = Dict({name: Box(0, 255, (_HEIGHT, _WIDTH, 3), np.uint8) for name in cameras})
        self.observation_space = Dict(spaces)
        self.action_space = Box(-360.0, 360.0, (len(KEYS),))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict, dict]:
        """Start an episode."""
        super().reset(seed=seed)
        self._arm.env.reset(seed=seed)
        self._step = 0
        return self._observe(), {"is_success": False}

    def step(self, action: np.ndarray) -> tuple[dict, float, bool, bool, dict]:
        """Move towards the joints for 50 ms."""
        self._arm.send_action(dict(zip(KEYS, np.asarray(action, np.float64).tolist(), strict=True)))
        self._step += 1
        env = self._arm.env
        done = bool(env.task.success(env.readings())[0])
        return self._observe(), float(done), False, self._step >= self._max_episode_steps, {"is_success": done}

    def render(self) -> np.ndarray:
        """Draw the arm."""
        return self._arm.env.render(0)

    def close(self) -> None:
        """End the simulation."""
        self._arm.disconnect()

    def _observe(self) -> dict[str, Any]:
        values = self._arm.get_observation()
        seen = {"agent_pos": np.array([values[key] for key in KEYS], np.float32)}
        seen["environment_state"] = np.array([values.get(key, 0.0) for key in CUBE_AND_GOAL], np.float32)
        if self._cameras:
            return {**seen, "pixels": {name: values[name] for name in self._cameras}}
        return seen


gymnasium.register(id=_ID, entry_point=TercetEnv)


@EnvConfig.register_subclass("tercet")
@dataclass
class TercetEnvConfig(EnvConfig):
    """`--env.type=tercet`: a task of Tercet's built-in arm, whose units are those of a preset or file of a robot."""

    task: str | None = "lift"
    fps: int = round(1 / STEP_SECONDS)
    episode_length: int = 80
    robot: str = "simulated"
    cameras: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.features = {ACTION: PolicyFeature(type=FeatureType.ACTION, shape=(len(KEYS),))}
        self.features["agent_pos"] = PolicyFeature(type=FeatureType.STATE, shape=(len(KEYS),))
        self.features["environment_state"] = PolicyFeature(type=FeatureType.ENV, shape=(len(CUBE_AND_GOAL),))
        self.features_map = {ACTION: ACTION, "agent_pos": OBS_STATE, "environment_state": OBS_ENV_STATE}
        for name in self.cameras:
            self.features[f"pixels/{name}"] = PolicyFeature(type=FeatureType.VISUAL, shape=(_HEIGHT, _WIDTH, 3))
            self.features_map[f"pixels/{name}"] = f"{OBS_IMAGES}.{name}"

    @property
    def gym_id(self) -> str:
        """The id that is registered above."""
        return _ID

    @property
    def gym_kwargs(self) -> dict[str, Any]:
        """What the environment is made with."""
        length = self.episode_length
        return {"task": self.task, "robot": self.robot, "cameras": tuple(self.cameras), "episode_length": length}
