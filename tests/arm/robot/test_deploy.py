"""`tercet arm record` and `tercet arm deploy`: what they print, keep and refuse."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from tercet.arm import bc, pipeline
from tercet.arm.lerobot.read import open_recording
from tercet.cli import app
from tercet.config.load import load_arm_config
from tercet.runs.folder import RunFolder


def called(*words: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, list(map(str, words)))
    return result.exit_code, result.output


def test_from_a_recording_to_a_policy_on_the_arm(small: list[str], tmp_path: Path) -> None:
    demos, run = tmp_path / "demos", tmp_path / "run"
    code, said = called("arm", "record", demos, "--times", 2, "--task", "reach", "--seconds", 6)
    assert code == 0 and f"recording: {demos} (2 of 2 succeeded)" in said
    assert len(open_recording(demos)) == 2
    config = load_arm_config("reach", [*small, f"bc.demonstrations={demos}"])
    with RunFolder.open(run, config, preset="reach") as folder:
        pipeline.STEPS["bc"](folder, config)
    assert bc.run is pipeline.STEPS["bc"]
    code, said = called("arm", "deploy", run, "--stage", "bc", "--seconds", 1)
    assert code == 0 and "nothing was sent; --send moves the arm" in said
    assert (run / "deploy" / "would_be_sent.png").exists()
    code, said = called("arm", "deploy", run, "--stage", "bc", "--seconds", 1, "--send", "--times", 2)
    assert code == 0 and "nothing was sent" not in said and "try 2:" in said
    assert (run / "deploy" / "sent.png").exists()
    code, said = called("arm", "deploy", run)
    assert code == 2 and "this run has bc" in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("deploy", "{tmp}/none"), "not a run folder (no config.yaml)|cannot be read"),
        (("record", "{tmp}/a", "--task", "sing"), "task 'sing' is unknown"),
        (("record", "{tmp}/a", "teacher=none"), "give teacher=so101_leader"),
        (("record", "{tmp}/a", "--robot", "so101"), "a real arm needs a person at the keyboard"),
        (("record", "{tmp}/a", "safety.max_speed=1000"), "safety.max_speed"),
    ],
)
def test_wrong_input_is_one_message(words: tuple[str, ...], said: str, tmp_path: Path) -> None:
    code, found = called("arm", *(word.replace("{tmp}", str(tmp_path)) for word in words))
    assert code == 2
    assert any(one in found for one in said.split("|")), found
