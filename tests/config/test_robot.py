"""What a robot's config refuses, and with which words."""

import pytest

from tercet.config.load import load_robot_config, preset_names
from tercet.errors import InputError


def test_every_preset_is_a_config() -> None:
    assert preset_names("robot") == ["simulated", "simulated-so101", "so101"]
    assert load_robot_config("so101", ["port=/dev/ttyACM0"]).port == "/dev/ttyACM0"
    assert load_robot_config("so101", []).safety.max_speed <= 45  # slow, until a person has seen it move


def test_the_simulated_so101_has_the_units_of_a_real_one() -> None:
    simulated, real = load_robot_config("simulated-so101", []), load_robot_config("so101", [])
    assert simulated.calibration == real.calibration and simulated.model == real.model == "so101"


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("safety.max_speed=0", "safety.max_speed"),
        ("safety.max_speed=.inf", "safety.max_speed"),
        ("safety.off=true", "no such key"),
        ("safety.workspace_z=[0.2, 0.1]", "the first must be below the second"),
        ("calibration.elbow_flex.degrees_per_unit=0", "degrees_per_unit must not be 0"),
        ("calibration.elbow_flex={low: 5, high: 5}", "must be below high"),
        ("calibration.gripper={closed: 5, wide: 5}", "must differ"),
        ("start=[0.5, 0, 0.1]", "outside safety.workspace_x"),
        ("goal=[0.2, 0, 0.5]", "outside safety.workspace_z"),
    ],
)
def test_invalid_limits_are_refused(override: str, said: str) -> None:
    with pytest.raises(InputError) as caught:
        load_robot_config("simulated", [override])
    assert said in str(caught.value)
