"""The rounds of `tercet arm improve` in the report."""

from dataclasses import replace
from pathlib import Path

from tercet.config.load import load_arm_config
from tercet.report import arm
from tercet.report.blocks import Bar
from tercet.report.records import contents


def test_rounds_are_shown_in_order_with_the_share_of_help(tmp_path: Path) -> None:
    success = {"mean": 0.75, "low": 0.7, "high": 0.8, "num_states": 64}
    one = {
        "minutes": 3.0,
        "success": success,
        "num_tries": 50,
        "num_without_help": 30,
        "num_takeovers": 20,
        "person_ticks": 900,
        "num_ticks": 3600,
        "limits": {"any": 1800, "speed": 5},
    }
    rounds = {"10": {**one, "minutes": 30.0}, "0": {"minutes": 0.0, "success": success}, "2": one}
    record = contents(tmp_path, load_arm_config("lift", []).model_dump(mode="json"))
    assert arm.on_arm(record) is None
    table = arm.on_arm(replace(record, results={"improve": rounds}))
    assert table is not None
    assert [row[0] for row in table.rows] == ["BC", "Round 2", "Round 10"]
    assert isinstance(table.rows[1][2], Bar) and table.rows[1][3:] == ["50", "30", "20", "25%", "50%"]
    assert table.rows[0][3:] == ["–", "–", "–", "–", "–"]
