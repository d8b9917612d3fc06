"""A plugin of LeRobot: the policy `tercet`, and a simulated environment and robot. Importing it registers them."""

from lerobot_policy_tercet.configuration_tercet import TercetConfig
from lerobot_policy_tercet.environment_tercet import TercetEnvConfig
from lerobot_policy_tercet.robot_tercet import TercetSimulated, TercetSimulatedConfig

__all__ = ["TercetConfig", "TercetEnvConfig", "TercetSimulated", "TercetSimulatedConfig"]
