"""The commands of `tercet arm`."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("command", [["run", "--preset", "reach"], ["check"]])
def test_without_the_packages_of_the_arm_one_line_says_what_to_install(command: list[str], tmp_path: Path):
    without = "import sys; sys.modules |= {'mujoco': None, 'gymnasium': None}; from tercet.cli import main; main()"
    arguments = [sys.executable, "-c", without, "arm", *command]
    result = subprocess.run(arguments, capture_output=True, text=True, cwd=tmp_path, check=False)
    told = 'the robot arm needs packages that are not installed (gymnasium, mujoco): pip install "tercet[arm]"'
    assert (result.returncode, result.stderr) == (2, f"tercet: {told}\n")
    assert list(tmp_path.iterdir()) == []
