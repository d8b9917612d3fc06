"""The blocks of the report that show responses: of every stage, and of PPO during training."""

from collections.abc import Sequence

from tercet.report.blocks import Answer, Block, Cell, Comparison, Fold, Heat, Prose, Role, Subhead, Table
from tercet.report.formats import score, shares, signed
from tercet.report.records import Record, Tree, find, number, stages
from tercet.runs.rounds import in_round

_ROLES: dict[str, Role] = {"base": "base", "sft": "sft", "ppo": "ppo"}
_SHOWN = 3  # answers at each end of the held-out prompts
_MOMENTS = 8  # updates whose samples are shown, evenly spread
_AT_A_MOMENT = 3
_FOLDED = 200  # more would make the page slow to load; the files have all


def fixed_prompts(record: Record) -> list[Block]:
    """Show the greedy and sampled response of every stage to the fixed prompts."""
    blocks: list[Block] = []
    for row in record.answers:
        rows = []
        for way in ("greedy", "sampled"):
            answers = [
                Answer(name, role, str(text))
                for stage, role, name in _stages(record)
                if (text := find(row, "answers", stage, way)) is not None
            ]
            if answers:
                rows.append((way, answers))
        blocks.append(Comparison(str(row.get("prompt", "")), rows))
    return blocks


def held_out(record: Record) -> list[Block]:
    """Show held-out prompts, from PPO's largest wins to its largest losses."""
    scored = [key for key in ("judge", "reward_model") if any(_gain(row, key) is not None for row in record.held_out)]
    if not scored:
        return []
    key = scored[0]
    gains = [(gain, row) for row in record.held_out if (gain := _gain(row, key)) is not None]
    ranked = [row for _, row in sorted(gains, key=lambda pair: -pair[0])]
    middle = (len(ranked) - _SHOWN) // 2
    caption = "From PPO's largest gain over SFT to its largest loss."
    if len(ranked) <= 3 * _SHOWN:
        return [Prose(caption), *(_scored(record, row, key) for row in ranked)]
    rest = ranked[_SHOWN:-_SHOWN][:_FOLDED]
    return [
        Prose(caption),
        Subhead("Where PPO gained most"),
        *(_scored(record, row, key) for row in ranked[:_SHOWN]),
        Subhead("From the middle"),
        *(_scored(record, row, key) for row in ranked[middle : middle + _SHOWN]),
        Subhead("Where PPO lost most"),
        *(_scored(record, row, key) for row in ranked[-_SHOWN:]),
        Fold(f"{len(rest)} more, from gain to loss", [_plain(rest, key)]),
    ]


def samples(record: Record) -> list[Block]:
    """Show a few of PPO's responses at evenly spaced updates, with the others folded."""
    rows = [row for row in record.samples if row.get("step") == "ppo" and "response" in row]
    if not rows:
        return []
    moments = sorted({int(row.get("index", 0)) for row in rows})
    last = len(moments) - 1
    chosen = sorted({moments[round(i * last / (_MOMENTS - 1))] for i in range(_MOMENTS)})
    picked = [row for moment in chosen for row in [one for one in rows if one.get("index") == moment][:_AT_A_MOMENT]]
    caption = (
        "Sampled from the policy of that update on prompts of the rollout. Early samples should resemble SFT, "
        "late samples should have more of what the reward favours."
    )
    blocks: list[Block] = [_table(picked, caption)]
    if len(rows) > len(picked):
        title = f"All {len(rows)} samples" if len(rows) <= _FOLDED else f"The last {_FOLDED} of {len(rows)} samples"
        blocks.append(Fold(title, [_table(rows[-_FOLDED:], "")]))
    return blocks


def _table(rows: Sequence[Tree], caption: str) -> Table:
    scores = [number(row, "score") for row in rows]
    cells: list[list[Cell]] = []
    previous = None
    for row, value, share in zip(rows, scores, shares(scores), strict=True):
        moment = str(row.get("index", ""))
        shown = moment if moment != previous else ""
        cells.append([shown, str(row.get("prompt", "")), str(row["response"]), Heat(score(value), share)])
        previous = moment
    return Table("", caption, ["update", "prompt", "answer", "score"], cells, "rwwr")


def _gain(row: Tree, key: str) -> float | None:
    sft, ppo = (number(row, "scores", stage, key) for stage in ("sft", "ppo"))
    return None if sft is None or ppo is None else ppo - sft


def _stages(record: Record) -> list[tuple[str, Role, str]]:
    """Return each stage with its colour and its name; a round has the colour of PPO."""
    named: list[tuple[str, Role, str]] = [
        (stage, _ROLES.get(stage, "other"), title) for stage, title in stages(record).items()
    ]
    rounds = [one.number for one in record.rounds]
    return [*named[:3], *((in_round("ppo", i), "ppo", f"Round {i}") for i in rounds), *named[3:]]


def _scored(record: Record, row: Tree, key: str) -> Comparison:
    answers = []
    for stage, role, name in _stages(record):
        text, value = find(row, "answers", stage), number(row, "scores", stage, key)
        if text is not None:
            answers.append(Answer(name, role, str(text), "" if value is None else f"score {score(value)}"))
    return Comparison(str(row.get("prompt", "")), [("", answers)])


def _plain(rows: Sequence[Tree], key: str) -> Table:
    gains = [_gain(row, key) for row in rows]
    cells: list[list[Cell]] = [
        [
            str(row.get("prompt", "")),
            str(find(row, "answers", "sft") or ""),
            str(find(row, "answers", "ppo") or ""),
            Heat(signed(gain), share),
        ]
        for row, gain, share in zip(rows, gains, shares(gains), strict=True)
    ]
    return Table("", "", ["prompt", "SFT", "PPO", "gain"], cells, "wwwr")
