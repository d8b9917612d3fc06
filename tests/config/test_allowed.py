"""Descriptions of accepted values."""

from pathlib import Path

import pytest

from tercet.config.load import load_arm_config
from tercet.errors import InputError


def test_the_length_of_a_list_is_stated(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"mass = \[1\] \(command line\): must be a list of numbers, 2 of them"):
        load_arm_config("lift", ["randomisation.mass=[1]"])
    with pytest.raises(InputError, match=r"noises = \[\] \(command line\): must be a list of numbers, not empty"):
        load_arm_config("lift", ["reward.noises=[]"])
