"""The block of instructions: it has the right numbers, and is left out where there are none."""

from typing import Any

from tercet.report.blocks import Bar
from tercet.report.instructions import instructed
from tercet.report.records import Record


def rate(mean: float) -> dict[str, float]:
    return {"mean": mean, "low": mean - 0.1, "high": mean + 0.1, "num_states": 8.0}


def record_of(results: dict[str, Any]) -> Record:
    return Record("run", {}, {}, [], [], [], results, [], False, [], [], [], [])


def test_every_way_has_a_row_with_the_colours_and_the_other_cube() -> None:
    trained = {"all": rate(0.5), "blue": rate(0.25), "red": rate(0.75), "other": rate(0.2)}
    swapped = {"all": rate(0.1), "blue": rate(0.1), "other": rate(0.8)}
    found = {"bc": {"trained": trained}, "ppo": {"trained": trained, "swapped": swapped}}
    table = instructed(record_of({"instructions": found}))
    assert table is not None and table.head[3:] == ["blue asked for", "red asked for", "the other cube"]
    assert [row[:2] for row in table.rows] == [
        ["BC", "the sentences of training"],
        ["PPO", "the sentences of training"],
        ["PPO", "the sentence of the other cube"],
    ]
    bar = table.rows[0][2]
    assert isinstance(bar, Bar) and bar.rate.mean == 0.5
    assert [row[3:] for row in table.rows] == [["25%", "75%", "20%"], ["25%", "75%", "20%"], ["10%", "", "80%"]]


def test_it_is_left_out_without_instructions() -> None:
    assert instructed(record_of({})) is None
