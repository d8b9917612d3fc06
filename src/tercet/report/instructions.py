"""The block about a task with instructions: success by the cube that a sentence names."""

from tercet.report.blocks import Bar, Cell, Table
from tercet.report.formats import percent
from tercet.report.records import Record, find, rate

STAGES = {"bc": "BC", "start": "before PPO", "ppo": "PPO"}
WAYS = {
    "trained": "the sentences of training",
    "reworded": "other sentences, the same words for colours",
    "renamed": "other words for colours",
    "unnamed": "a sentence that names no colour",
    "swapped": "the sentence of the other cube",
}


def instructed(record: Record) -> Table | None:
    """Show how often a policy lifts the cube that it is asked for, told in several ways; None without instructions."""
    found = find(record.results, "instructions") or {}
    colours = [name for name in next(iter(found.values()), {}).get("trained", {}) if name not in ("all", "other")]
    rows: list[list[Cell]] = []
    for stage in filter(found.__contains__, STAGES):
        for way in filter(found[stage].__contains__, WAYS):
            whole, other = (rate(found, stage, way, name) for name in ("all", "other"))
            if whole is None or other is None:
                continue
            parts = [rate(found, stage, way, colour) for colour in colours]
            shown = [percent(one.mean) if one else "" for one in (*parts, other)]
            rows.append([STAGES[stage], WAYS[way], Bar(whole, "ppo" if stage == "ppo" else "sft"), *shown])
    if not rows:
        return None
    return Table(
        "Success by instruction",
        "The same starts as above. The episode asks for one cube; the policy is told so in different ways. The columns "
        "of colours are success where that cube is asked for. The last column is how often the other cube was lifted "
        "in its place. A policy that reads should lift it if it is told the sentence of the other cube, and either of "
        "them if no colour is named.",
        ["", "told by", "success", *(f"{colour} asked for" for colour in colours), "the other cube"],
        rows,
        "llb" + "r" * (len(colours) + 1),
    )
