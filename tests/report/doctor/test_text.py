"""What `tercet doctor` prints."""

import json
from collections.abc import Callable
from dataclasses import replace

from tercet.report.doctor.text import as_json, lines
from tercet.report.records import Record


def test_problems_come_first_and_in_full(sound: Record, with_curve: Callable[..., Record]) -> None:
    shown = lines(with_curve(sound, "ppo/reward_clip_fraction", lambda i: 0.3))
    assert shown[:4] == [
        "ALARM  Many scores are clipped",
        "       30% of the scores were beyond ±5 in the last updates, where all answers get the same reward.",
        "       Try: raise `ppo.reward_clip` or lower the weights of `ppo.reward`.",
        "       See docs/ppo.md#4-the-score",
    ]
    assert all(line.startswith("ok     ") for line in shown[4:-1])
    assert shown[-1] == f"alarms: 1, advice: 0, passed: {len(shown) - 5}"


def test_a_new_run_has_nothing_to_examine(sound: Record) -> None:
    assert lines(replace(sound, metrics=[], timings=[], results={}, held_out=[])) == [
        "Nothing to examine yet: no step has written enough rows."
    ]


def test_rounds_are_named(sound: Record, with_curve: Callable[..., Record]) -> None:
    sick = replace(with_curve(sound, "ppo/reward_clip_fraction", lambda i: 0.3), number=1)
    shown = lines(replace(sound, rounds=[sick]))
    assert shown.index("ALARM  Many scores are clipped") == shown.index("round 1:") + 1


def test_json_has_every_finding_in_one_line(sound: Record, with_curve: Callable[..., Record]) -> None:
    text = as_json(with_curve(sound, "ppo/reward_clip_fraction", lambda i: 0.3))
    assert "\n" not in text
    found = json.loads(text)["findings"]
    assert found[0]["name"] == "reward_saturated" and found[0]["level"] == "alarm" and found[0]["round"] == 0
    assert {one["level"] for one in found} == {"alarm", "good"}
