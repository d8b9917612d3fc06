"""`tercet arm data` counts correctly, warns of problems, and says whether cloning is possible."""

import re
from io import StringIO
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from tercet.arm import bc
from tercet.arm.demonstrations import recordings
from tercet.arm.inspect import of_recording, run, warnings
from tercet.cli import app
from tercet.config.arm import ArmConfig, BcConfig
from tercet.config.load import load_arm_config
from tercet.errors import InputError
from tercet.runs.folder import RunFolder
from tercet.runs.screen import screen


def printed(config: ArmConfig) -> str:
    console = screen(width=200, record=True, file=StringIO())
    run(config, console)
    return console.export_text()


def of(source: object, *overrides: str) -> ArmConfig:
    return load_arm_config("reach", [f"bc.demonstrations={source}", *overrides])


@pytest.fixture
def npz(tmp_path: Path) -> Path:
    """Demonstrations of 5 and 3 steps and a copy of the first; the padding is not zero."""
    seen = np.full((3, 5, 2), 99.0, np.float32)
    seen[0, :, 0], seen[0, :, 1] = [0.0, 0.0, 0.5, 1.0, 1.0], 7.0
    seen[1, :3, 0], seen[1, :3, 1] = [0.0, 0.2, 0.4], 7.0
    seen[2] = seen[0]
    done = np.zeros((3, 5, 1), np.float32)
    done[:, :, 0] = [-1.0, 0.0, 0.0, 0.0, 1.0]
    np.savez(tmp_path / "r.npz", observations=seen, actions=done, lengths=np.array([5, 3, 5]), env=np.array("reach"))
    return tmp_path / "r.npz"


def test_figures_by_hand(npz: Path) -> None:
    found = of_recording(npz, BcConfig())
    assert (found.made_in, found.lengths, found.num_duplicates, found.success) == ("reach", (5, 3, 5), 1, None)
    assert found.still == 4 / 13  # the first and the fourth step of the first and of its copy
    assert found.num_idle == 2  # of which the first alone has a movement behind it
    first, second, action = found.columns
    assert (first.name, first.minimum, first.maximum) == ("observation 0", 0.0, 1.0)
    assert first.mean == pytest.approx((2 * 2.5 + 0.6) / 13)
    assert (second.std, second.mean) == (0.0, 7.0)
    assert (action.name, action.minimum, action.maximum) == ("action 0", -1.0, 1.0)


def test_problems_for_cloning_are_reported(npz: Path) -> None:
    lines = warnings(of_recording(npz, BcConfig()), BcConfig(), horizon=4)
    assert lines == [
        "demonstrations that equal earlier ones: 1",
        "in 15% of the steps nothing moves until a later movement; a clone learns to wait there: "
        "bc.cut_idle=true removes them",
        "never changes: observation 1",
        "demonstrations longer than an episode of this run (horizon=4): 2",
    ]


def test_the_output_fits_80_columns_and_states_the_units_of_actions(npz: Path) -> None:
    console = screen(width=80, record=True, file=StringIO())
    run(of(npz, "bc.num_demonstrations=3"), console)
    lines = console.export_text().splitlines()
    assert max(map(len, lines)) <= 80
    assert any("steps: min / median / max │ 3 / 5 / 5" in line for line in lines)
    assert any("units of actions" in line and "not stated" in line for line in lines)


def test_small_and_large_numbers_keep_five_digits(tmp_path: Path) -> None:
    seen = np.linspace(0.0, 0.0004, 12, dtype=np.float32).reshape(1, 6, 2)
    np.savez(tmp_path / "m.npz", observations=seen, actions=np.full((1, 6, 1), 250000.0), lengths=np.array([6]))
    lines = printed(of(tmp_path / "m.npz", "bc.num_demonstrations=1")).splitlines()
    rows = [line.split("│")[1:-1] for line in lines if re.match("│ (observation|action) ", line)]
    assert [word.strip() for word in rows[0]] == ["observation 0", "0.00018182", "0.00012421", "0", "0.00036364"]
    assert rows[2][1].strip() == "2.5e+05"


def test_idle_steps_to_be_cut_are_counted(tmp_path: Path) -> None:
    seen = np.zeros((2, 6, 12), np.float32)
    seen[:, :, 0] = [0, 0, 0, 1, 2, 2]  # two steps of waiting, and a rest at the end
    done = np.zeros((2, 6, 5), np.float32)
    np.savez(tmp_path / "r.npz", observations=seen, actions=done, lengths=np.array([6, 6]), env=np.array("reach"))
    text = printed(of(tmp_path / "r.npz", "bc.num_demonstrations=2", "bc.cut_idle=true"))
    assert "bc would learn from 2 demonstrations, 8 steps" in text and "4 idle steps are cut out" in text


def test_a_recording_of_another_robot_is_summarised_and_cloning_is_refused(npz: Path) -> None:
    text = printed(of(npz, "bc.num_demonstrations=3"))
    assert "3 / 5 / 5" in text
    assert "bc cannot learn from this in env=reach: " in text and "of another robot" in text


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"lengths": np.array([5, 3])}, "lengths must be one whole number per demonstration, from 1 to 5"),
        ({"lengths": np.array([5, 99, 5])}, "lengths must be one whole number per demonstration, from 1 to 5"),
        ({"lengths": np.array(5)}, "lengths must be one whole number per demonstration"),
        ({"observations": np.zeros((3, 5))}, r"they must be \(demonstrations, steps, size\)"),
        ({name: np.zeros((0, 5, 1)) for name in ("observations", "actions")}, "contains no demonstrations"),
    ],
)
def test_a_damaged_recording_is_refused_in_one_line(npz: Path, changed: dict[str, np.ndarray], said: str) -> None:
    with np.load(npz) as whole:
        np.savez(npz, **{**whole, **changed})
    with pytest.raises(InputError, match=said):
        run(of(npz))


def test_numbers_that_are_not_finite_are_named(npz: Path) -> None:
    with np.load(npz) as whole:
        arrays = {**whole, "lengths": whole["lengths"].astype(np.float64)}  # as some tools write them
    arrays["observations"][1, 0, 0] = np.nan
    np.savez(npz, **arrays)
    assert "contains numbers that are not finite, which bc refuses: observation 0" in warnings(
        of_recording(npz, BcConfig()), BcConfig(), horizon=60
    )


def test_the_command_takes_one_recording_and_overrides(npz: Path) -> None:
    shown = CliRunner().invoke(app, ["arm", "data", str(npz), "--preset", "reach", "bc.num_demonstrations=3"])
    assert shown.exit_code == 0 and "demonstrations" in shown.output
    two = CliRunner().invoke(app, ["arm", "data", str(npz), str(npz)])
    assert two.exit_code == 2 and "give one recording at a time" in two.output


def test_a_lerobot_folder_names_its_numbers(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    seen = [rng.normal(size=(length, 2)).astype(np.float32) for length in (6, 4)]
    films = {"front": [np.zeros((len(one), 16, 16, 3), np.uint8) for one in seen]}
    recordings.save(tmp_path / "r", seen, [one[:, :1] for one in seen], env="mine", fps=10.0, pictures=films)
    found = of_recording(tmp_path / "r", BcConfig())
    assert (found.made_in, found.lengths, found.fps, found.cameras) == ("tercet: mine", (6, 4), 10.0, ("front",))
    assert [column.name for column in found.columns] == ["state 0", "state 1", "action 0"]


def test_lost_frames_are_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    seen = np.random.default_rng(0).normal(size=(8, 12)).astype(np.float32)
    recordings.save(tmp_path / "r", [seen], [np.zeros((8, 5), np.float32)], env="reach", fps=10.0)
    (file,) = (tmp_path / "r/data").rglob("*.parquet")
    table = pq.read_table(file, partitioning=None)
    times = pa.array(np.array([0.0, 0.1, 0.2, 0.51, 0.59, 0.7, 0.8, 1.0], np.float32))  # 0.3, 0.4 and 0.9 are lost
    pq.write_table(table.set_column(table.column_names.index("timestamp"), "timestamp", times), file)
    config = of(
        tmp_path / "r",
        "bc.num_demonstrations=1",
        "bc.epochs=1",
        "horizon=8",
        "bc.num_eval=1",
        "reward.segment_length=4",
        "threads=1",
    )
    assert "frames are missing inside of 1 demonstrations, 3 in all" in printed(config)
    with RunFolder.open(tmp_path / "run", config, preset="reach") as folder:
        bc.run(folder, config)
    assert "bc: 3 frames are missing inside of demonstrations" in capsys.readouterr().out


def test_the_success_of_the_expert_is_shown() -> None:
    text = printed(of("expert", "bc.num_demonstrations=4", "horizon=40"))
    assert "expert" in text and "100%" in text
    assert "bc would learn from 4 demonstrations, " in text


def test_no_demonstrations_and_a_missing_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is nothing to show"):
        run(of("none"))
    with pytest.raises(InputError, match="no file"):
        run(of(tmp_path / "absent.npz"))
