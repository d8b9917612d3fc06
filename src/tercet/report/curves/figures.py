"""The figures of PPO and of the reward model that depend on the config or are no curve over updates."""

from dataclasses import replace

from tercet.report import plots
from tercet.report.blocks import Figure, Figures, Fold, Key
from tercet.report.curves.lm import MORE_PPO, PPO
from tercet.report.curves.plot import Line, Plot, figures
from tercet.report.formats import num
from tercet.report.plots import Colour, Series
from tercet.report.records import Record, Tree, algorithm, find, number, watched_judges
from tercet.runs.rounds import in_round


def ppo_blocks(record: Record) -> list[Figures | Fold]:
    """Return the curves of PPO, score against KL, and the other curves folded."""
    mark = number(record.results, "best_checkpoint", "update")
    shown = figures(record, [_with_watched_judges(record, PPO[0]), *PPO[1:]], mark=mark)
    if shown is None:
        return []
    trade = trade_off(record, mark)
    more = figures(record, [*_reward_terms(record), *_named_scores(record), *MORE_PPO], mark=mark)
    blocks: list[Figures | Fold] = [Figures([*shown.figures, *([trade] if trade else [])])]
    return [*blocks, Fold("More curves of PPO", [more])] if more else blocks


def kept_update(record: Record, unit: str) -> str:
    """Explain the dotted line, and how much of the validation score there is chance; `unit` is prompts or starts."""
    keys = ("update", "score", "expected_shrinkage", "num_candidates", "num_scores")
    update, best, chance, candidates, scores = (number(record.results, "best_checkpoint", key) for key in keys)
    if update is None:
        return ""
    text = " The dotted line marks the update whose policy was kept."
    if best is None or chance is None or candidates is None or scores is None or candidates == 1:
        return text
    return (
        f"{text} Its validation score is {num(best)}. About {num(chance)} of it is chance, because it is the best of "
        f"{candidates:.0f} validations on the same {scores:.0f} {unit}; on new {unit} expect that much less."
    )


def _reward_terms(record: Record) -> list[Plot]:
    """Plot what each term of ppo.reward adds to the score, if there are several."""
    names: Tree = find(record.config, "ppo", "reward") or {}
    if len(names) < 2:
        return []
    caption = (
        "What each term of `ppo.reward` adds to the score, on its scale and with its weight. If one rises while "
        "another falls, the policy gains the one at the cost of the other."
    )
    lines = [Line(f"ppo/term/{name}", name, _colour(i)) for i, name in enumerate(names)]
    return [Plot("Reward by term", "part of the score", caption, lines, level=0.0)]


def _named_scores(record: Record) -> list[Plot]:
    """Plot the named scores of each function in ppo.reward that returns several."""
    plots: list[Plot] = []
    for name in find(record.config, "ppo", "reward") or {}:
        start = f"ppo/named/{name}/"
        metrics = dict.fromkeys(key for row in record.metrics for key in row if key.startswith(start))
        caption = (
            f"The scores that `{name}` returns by name, as they are. Their sum, scaled, is its term of the reward."
        )
        lines = [Line(metric, metric.removeprefix(start), _colour(i)) for i, metric in enumerate(metrics)]
        plots += [Plot(f"Scores of {name}", "mean score", caption, lines)] if lines else []
    return plots


def _colour(number: int) -> Colour:
    colours: tuple[Colour, ...] = ("ppo", "sft", "other", "base", "muted", "ink")
    return colours[number % len(colours)]


def without_critic(record: Record) -> str:
    """Name the algorithm if it is not PPO."""
    name = algorithm(record)
    if name == "PPO":
        return ""
    return f" This step used {name}, which has no critic. Elsewhere on this page it is called PPO."


def _with_watched_judges(record: Record, plot: Plot) -> Plot:
    """Add the judges of ppo.watch to the plot of the reward."""
    colours: tuple[Colour, ...] = ("other", "base", "muted")
    lines = [
        Line(f"ppo/watch/{name}", f"{name.replace('_', ' ')} (right axis)", colours[i % 3], dots=True, right=True)
        for i, name in enumerate(watched_judges(record))
    ]
    if not lines:
        return plot
    caption = (
        f"{plot.caption} Dashed lines are judges that PPO is not trained on. If they fall while the score rises, the "
        "policy exploits its reward."
    )
    return replace(plot, caption=caption, lines=[*plot.lines, *lines])


def trade_off(record: Record, mark: float | None) -> Figure | None:
    """Plot score against KL, on validation prompts if they were measured there."""
    for kind, prompts in (("validation_", "validation prompts"), ("", "the training prompts of each update")):
        rows = [row for row in record.metrics if number(row, f"ppo/{kind}score") is not None]
        points = [(number(row, f"ppo/{kind}kl"), number(row, f"ppo/{kind}score"), row) for row in rows]
        known = [(kl, score, row) for kl, score, row in points if kl is not None and score is not None]
        if len(known) < 2:
            continue
        chosen = next((i for i, (_, _, row) in enumerate(known) if row.get("index") == mark), None)
        xs, ys = [kl for kl, _, _ in known], [score for _, score, _ in known]
        return Figure(
            title="Score against KL",
            unit="score (up) against KL in nats (right)",
            caption=(
                f"Each point is a measurement on {prompts}, pale early, full late. Up and to the left is better: a "
                "high score at a low KL. A path to the right that does not rise gains KL without score."
            )
            + (" The ring is the checkpoint that was kept." if chosen is not None else ""),
            svg=plots.path(xs, ys, name=in_round("trade", record.number), mark=chosen),
            legend=[],
            change="",
            numbers=ys,
        )
    return None


def calibration(record: Record) -> Figures | None:
    """Plot the calibration of the reward model, with one line for each data set."""
    colours: tuple[Colour, ...] = ("other", "ppo", "sft", "base", "ink")
    tables: Tree = find(record.results, "reward_model", "calibration") or {}
    lines = []
    for (name, bins), colour in zip(sorted(tables.items()), colours, strict=False):
        points = [(number(one, "predicted"), number(one, "observed")) for one in bins if number(one, "num")]
        known = [(x, y) for x, y in points if x is not None and y is not None]
        if known:
            lines.append(Series(name, colour, [x for x, _ in known], [y for _, y in known]))
    if not lines:
        return None
    figure = Figure(
        title="Calibration",
        unit="accuracy (up) against confidence (right)",
        caption=(
            "Among held-out pairs with a predicted confidence of 80%, it should be right in 80% (dashed). Below "
            "the line it is overconfident, above it underconfident."
        ),
        svg=plots.calibration(lines, name="calibration"),
        legend=[Key(line.label, line.colour) for line in lines],
        change="",
        numbers=[],
    )
    return Figures([figure])
