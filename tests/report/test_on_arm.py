"""The rounds of `tercet arm improve` in the report."""

from dataclasses import replace
from pathlib import Path

from tercet.config.load import load_arm_config
from tercet.report import arm
from tercet.report.blocks import Bar, Figures, Table
from tercet.report.on_arm import on_arm
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
    assert on_arm(record) == []
    table, figures = on_arm(replace(record, results={"improve": rounds}))
    assert isinstance(table, Table) and isinstance(figures, Figures)
    assert [figure.title for figure in figures.figures] == ["Success"]  # an earlier version stored no tries
    assert [row[0] for row in table.rows] == ["BC", "Round 2", "Round 10"]
    assert isinstance(table.rows[1][2], Bar) and table.rows[1][3:] == ["50", "30", "20", "25%", "50%"]
    assert table.rows[0][3:] == ["–", "–", "–", "–", "–"]


def test_plots_show_the_success_over_minutes_and_who_steered(tmp_path: Path) -> None:
    record = contents(tmp_path, load_arm_config("lift", []).model_dump(mode="json"))
    tries = [
        {"num_steps": 40, "good": True, "takeovers": [[12, 40]]},
        {"num_steps": 30, "good": True, "takeovers": []},
        {"num_steps": 80, "good": False, "takeovers": [[5, 9], [20, 25]]},
        {"num_steps": 25, "good": True, "takeovers": []},
    ]
    rates = {"0": 0.5, "1": 0.75, "2": 1.0}
    rounds = {
        name: {"minutes": 3.0 * int(name), "success": {"mean": mean, "low": mean - 0.1, "high": mean, "num_states": 9}}
        for name, mean in rates.items()
    }
    rounds["1"]["tries"], rounds["2"]["tries"] = tries[:3], tries[3:]
    _, figures = on_arm(replace(record, results={"improve": rounds}))
    assert isinstance(figures, Figures)
    success, strips = figures.figures
    assert success.numbers == [0.5, 0.75, 1.0] and success.change == "50% to 100%"
    assert strips.numbers == [2 / 3, 0.0] and strips.change == "help in 67% to 0% of the tries"
    assert [strips.svg.count(f"var(--{colour})") > 0 for colour in ("sft", "ppo", "ink")] == [True] * 3
    del rounds["1"]["success"], rounds["2"]["success"], rounds["0"]  # a real arm
    _, figures = on_arm(replace(record, results={"improve": rounds}))
    assert isinstance(figures, Figures) and [one.title for one in figures.figures] == ["Where the person took over"]


def test_the_first_sentence_compares_the_last_round_with_the_clone(tmp_path: Path) -> None:
    record = contents(tmp_path, load_arm_config("lift", []).model_dump(mode="json"))

    def first(low: float, high: float) -> str:
        rates = {"0": (0.1, 0.05, 0.2), "2": (0.3, 0.25, 0.4), "10": ((low + high) / 2, low, high)}
        rounds = {
            name: {"minutes": 3.0 * int(name), "success": {"mean": mean, "low": one, "high": two, "num_states": 64}}
            for name, (mean, one, two) in rates.items()
        }
        return arm.headline(replace(record, results={"improve": rounds})).text

    assert first(0.5, 0.7) == (
        "The rounds on an arm improved the policy: success on 60% of 64 simulated starts (95% interval 50% to 70%) "
        "after 30.0 minutes, against 10% for the clone."
    )
    assert first(0.1, 0.3).startswith("No significant difference between the policy after the rounds on an arm and")
    assert first(0.0, 0.04).startswith("The rounds on an arm made the policy worse")
    assert arm.headline(record).text == "No step has been run yet."
