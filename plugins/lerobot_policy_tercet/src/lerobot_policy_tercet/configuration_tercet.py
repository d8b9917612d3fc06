"""The config of an exported policy. LeRobot finds the policy and its processors by the names of the files beside it."""

from dataclasses import dataclass

from lerobot.configs import PreTrainedConfig


@PreTrainedConfig.register_subclass("tercet")
@dataclass
class TercetConfig(PreTrainedConfig):
    """What `tercet arm export` writes: features, and the task by its name in Tercet."""

    task: str = ""

    @property
    def observation_delta_indices(self) -> None:
        """One observation is seen at a time."""

    @property
    def action_delta_indices(self) -> None:
        """It is not trained here."""

    @property
    def reward_delta_indices(self) -> None:
        """It is not trained here."""

    def get_optimizer_preset(self) -> None:  # type: ignore[override]  # there is none
        """It is not trained here."""

    def get_scheduler_preset(self) -> None:
        """It is not trained here."""

    def validate_features(self) -> None:
        """Raise ValueError without the joints."""
        if not self.robot_state_feature or not self.action_feature:
            raise ValueError("a policy of Tercet needs observation.state and action, the six joints of an SO-101")
