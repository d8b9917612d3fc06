"""Tables of results.json, each with a sentence that explains it."""

from tercet.report.blocks import Bar, Cell, Heat, Role, Table
from tercet.report.formats import num, percent, score, shares, signed
from tercet.report.records import Record, Tree, find, number, rate, unseen_judges
from tercet.report.records import stages as stage_titles
from tercet.report.summary import accuracies


def win_rates(record: Record) -> Table | None:
    """Show paired comparisons on held-out prompts."""
    rows: list[list[Cell]] = []
    unseen = unseen_judges(record)
    titles = stage_titles(record)
    pairs: list[tuple[str, str, Role]] = [("ppo", "sft", "ppo"), ("ppo", "base", "ppo"), ("sft", "base", "sft")]
    for name in list(titles)[3:]:
        pairs.extend([(name, "sft", "other"), (name, "ppo", "other")])
    for one, other, role in pairs:
        for key, judge in judges(record).items():
            won = rate(record.results, "win_rate", f"{one}_vs_{other}", key)
            if won is not None:
                rows.append([f"{titles[one]} against {titles[other]}", judge, Bar(won, role), f"{won.num}"])
    if not rows:
        return None
    return Table(
        "Who wins",
        "Both stages answer the same held-out prompts. A tie counts half. The bar is the 95% interval and the line "
        "in the middle is one half. A stage is significantly better only if its whole bar is to the right of the "
        "line." + (" An unseen judge took no part in training or in the choice of the checkpoint." if unseen else ""),
        ["", "judge", "wins", "prompts"],
        rows,
        "llbr",
    )


def judges(record: Record) -> dict[str, str]:
    """Return what each judge is called in tables, by its name in results."""
    taught = ", which ranked the pairs" if record.sampled_pairs and unseen_judges(record) else ""
    seen = {"judge": f"the judge{taught}", "reward_model": "the reward model"}
    return seen | {name: f"{name.replace('_', ' ')} (unseen)" for name in unseen_judges(record)}


def stages(record: Record) -> Table | None:
    """Show the figures of each stage."""
    titles = stage_titles(record)
    columns = [
        ("judge's score", [number(record.results, "mean_score", stage, "judge") for stage in titles], score),
        (
            "reward model's score",
            [number(record.results, "mean_score", stage, "reward_model") for stage in titles],
            score,
        ),
        ("KL, nats per answer", [_kl(record, stage) for stage in titles], num),
        ("perplexity", [number(record.results, "perplexity", stage) for stage in titles], num),
        ("answer length, tokens", [number(record.results, "response_length", stage) for stage in titles], num),
    ]
    columns = [column for column in columns if any(value is not None for value in column[1])]
    if not columns:
        return None
    rows = [[title, *(show(column[i]) for _, column, show in columns)] for i, title in enumerate(titles.values())]
    return Table(
        "Stage by stage",
        "Means over the held-out prompts. Higher scores are better and have no unit. Lower perplexity is better."
        + _about_best_of_n(record),
        ["", *(title for title, _, _ in columns)],
        rows,
        "l" + "r" * len(columns),
    )


def _kl(record: Record, stage: str) -> float | None:
    """Return the KL of a stage from the SFT policy."""
    section = {"ppo": (), "dpo": ("dpo",)}.get(stage, ("best_of_n",) if stage.startswith("best-of-") else None)
    return None if section is None else number(record.results, *section, "kl_to_reference")


def _about_best_of_n(record: Record) -> str:
    n = number(record.results, "best_of_n", "n")
    if n is None:
        return ""
    return (
        f" Best-of-{n:.0f} is no policy of its own: of {n:.0f} answers of the SFT policy to a prompt, it is the one "
        "that the reward model scores highest. Its KL is log n - (n - 1) / n."
    )


def reward_model(record: Record) -> Table | None:
    """Show the reward model's figures on the held-out pairs of each data set."""
    accuracy = accuracies(record)
    if not accuracy:
        return None
    tree = find(record.results, "reward_model")
    keys = ("score_chosen", "score_rejected", "margin", "length_correlation")
    rows = [
        [name, Bar(one, "other"), f"{one.num}", *(score(number(tree, key, name)) for key in keys)]
        for name, one in accuracy.items()
    ]
    return Table(
        "Does it prefer the better answer?",
        "Accuracy is the share of held-out pairs in which the preferred answer scores higher, with its 95% "
        "interval; ties count half, and the line in the middle is chance. A correlation with length near ±1 would "
        "mean that it measures only length.",
        ["set", "accuracy", "pairs", "chosen", "rejected", "margin", "with length"],
        rows,
        "lbrrrrr",
    )


def forgetting(record: Record) -> Table | None:
    """Show the accuracy on every set after every stage of sequential training."""
    after: list[Tree] = find(record.results, "reward_model", "forgetting") or []
    if len(after) < 2:
        return None
    sets = sorted({name for stage in after for name in stage.get("accuracy", {})})
    accuracy = [[number(stage, "accuracy", name) for name in sets] for stage in after]
    tints = iter(shares([share for row in accuracy for share in row]))
    cells = [[Heat("–" if share is None else percent(share), next(tints)) for share in row] for row in accuracy]
    rows: list[list[Cell]] = [[f"after {stage.get('after')}", *row] for stage, row in zip(after, cells, strict=True)]
    return Table(
        "Accuracy after each stage",
        "The sets were learned in sequence. Each column shows the accuracy on one set after each stage. A fall "
        "after its own stage is forgetting; mixing the sets (`data.order=mixed`) prevents it.",
        ["", *sets],
        rows,
        "l" + "r" * len(sets),
    )


def reward_texts(record: Record) -> Table | None:
    """Show the scores of a good and a bad response to the same prompt, beside published scores of the same texts."""
    if not record.reward_texts:
        return None
    published = [
        name for name in ("official", "article") if any(find(row, "published", name) for row in record.reward_texts)
    ]
    rows: list[list[Cell]] = []
    for row in record.reward_texts:
        scores = [number(row, "score_bad"), number(row, "score_good")]
        for i, kind in enumerate(("bad", "good")):
            others = [find(row, "published", name) or [None, None] for name in published]
            rows.append(
                [
                    str(row.get("prompt", "")) if i == 0 else "",
                    kind,
                    str(row.get(kind, "")),
                    score(scores[i]),
                    *(score(one[i]) for one in others),
                ]
            )
        gaps = [_gap(scores), *(_gap(find(row, "published", name) or [None, None]) for name in published)]
        rows.append(["", "difference", "", *(signed(gap) for gap in gaps)])
    right = sum((_gap([number(row, "score_bad"), number(row, "score_good")]) or 0) > 0 for row in record.reward_texts)
    titles = {"official": "DeepSpeed-Chat", "article": "article"}
    return Table(
        "Good and bad answers to the same prompt",
        f"The good answer should score higher: {right} of {len(record.reward_texts)} do. Only differences within a "
        "prompt are meaningful"
        + (
            ", because every reward model has its own scale. The other columns are scores published for the same texts."
            if published
            else "."
        ),
        ["prompt", "", "answer", "this run", *(titles[name] for name in published)],
        rows,
        "wlw" + "r" * (1 + len(published)),
    )


def self_check(record: Record) -> Table | None:
    """Show the self-check before the first PPO update."""
    deviations = find(record.results, "self_check")
    if not deviations:
        return None
    rows = [[key.replace("_", " "), _shown(value)] for key, value in flat(deviations).items()]
    return Table(
        "Self-check before the first update",
        "Before training, the training forward pass must agree with sampling: ratio 1, KL 0, no influence of "
        "padding. PPO does not start if a check fails.",
        ["", "largest deviation"],
        rows,
        "lr",
    )


def times(record: Record) -> dict[str, float]:
    """Show the time of each step."""
    seconds = find(record.results, "seconds") or {}
    return {step: value for step in seconds if (value := number(seconds, step)) is not None}


def flat(tree: Tree, above: str = "") -> Tree:
    """Flatten a nested tree to keys such as `a.b`."""
    rows: Tree = {}
    for key, value in tree.items():
        rows |= flat(value, f"{above}{key}.") if isinstance(value, dict) else {f"{above}{key}": value}
    return rows


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return num(value) if isinstance(value, int | float) else str(value)


def _gap(pair: list[float | None]) -> float | None:
    bad, good = pair
    return None if bad is None or good is None else good - bad
