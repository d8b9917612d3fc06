"""Which curves a report shows, and in plain words what each one means and what a healthy one looks like."""

from collections.abc import Sequence
from dataclasses import dataclass

from tercet.report import plots
from tercet.report.blocks import Figure, Figures, Fold, Key
from tercet.report.formats import num
from tercet.report.plots import Colour, Series
from tercet.report.records import Record, Tree, curve, find, number


@dataclass(frozen=True)
class Line:
    """One metric in a plot."""

    metric: str
    label: str
    colour: Colour = "ppo"
    dots: bool = False


@dataclass(frozen=True)
class Plot:
    """A plot: its lines (the first is the main one), its words, and a level that means something."""

    title: str
    unit: str
    says: str
    lines: Sequence[Line]
    level: float | None = None
    bottom: float | None = None  # where the axis starts: at 0 for what is a share or a size


SFT = (
    Plot(
        "SFT loss",
        "nats a token",
        "How surprised the model is by the human answers it imitates. It should fall fast, then flatten; the proof "
        "that it learned and did not memorise is the perplexity on held-out text above.",
        [Line("sft/loss", "loss", "sft")],
    ),
    Plot(
        "SFT gradient norm",
        "before clipping",
        "How hard each batch pulls. Steady is healthy; growing by orders of magnitude means the learning rate is "
        "too high.",
        [Line("sft/grad_norm", "norm", "sft")],
        bottom=0.0,
    ),
)

REWARD = (
    Plot(
        "Reward-model loss",
        "nats a pair",
        "How surprised the reward model is by which answer was preferred. A coin flip costs ln 2 = 0.69 (dashed); "
        "below it something was learned, and near 0 in one epoch the pairs are easy or known by heart.",
        [Line("reward/loss", "loss", "other")],
        level=0.6931,
    ),
    Plot(
        "Accuracy on training batches",
        "share of pairs",
        "How often the preferred answer scored higher, in each batch before it was learned from. Half is chance "
        "(dashed). Human preference data ends between 0.6 and 0.75, for people do not agree much more often "
        "themselves.",
        [Line("reward/accuracy", "accuracy", "other")],
        level=0.5,
    ),
    Plot(
        "Margin",
        "score difference",
        "Mean score of the preferred answer minus that of the other. It should grow, then settle; growth without "
        "end while accuracy stands still is overconfidence.",
        [Line("reward/margin", "margin", "other")],
        level=0.0,
    ),
)

PPO = (
    Plot(
        "Reward",
        "mean score of an answer",
        "The score is what the reward says of the answers; what PPO is paid is less by the price of the distance from "
        "the reference and of unfinished answers. Both should rise and flatten. Circles are validation prompts that "
        "PPO never trains on, before the price of the distance: they should rise as well.",
        [
            Line("ppo/score", "score"),
            Line("ppo/reward", "paid, after all prices", "sft"),
            Line("ppo/validation_score", "validation", "ink", dots=True),
        ],
    ),
    Plot(
        "Scores beyond the clip",
        "share of answers",
        "Answers whose score lies beyond ±`ppo.reward_clip` are paid alike, however good or bad they are. Near 0 is "
        "healthy; near 1 PPO cannot see any more which answer is better.",
        [Line("ppo/reward_clip_fraction", "beyond the clip")],
        bottom=0.0,
    ),
    Plot(
        "Actor loss",
        "clipped surrogate, a token",
        "Unlike an ordinary loss this one has no reason to fall: advantages are centred anew at every update, so "
        "it stays close to 0. Healthy is small and without spikes; progress shows in the reward.",
        [Line("ppo/actor_loss", "actor loss")],
        level=0.0,
    ),
    Plot(
        "Critic loss",
        "squared error, a token",
        "How far the critic's forecast of the reward is off. It should fall and stay low; it may rise for a while "
        "when the actor finds answers that the critic has not seen.",
        [Line("ppo/critic_loss", "critic loss")],
        bottom=0.0,
    ),
    Plot(
        "KL to the reference",
        "nats an answer",
        "How far the policy has moved from the SFT model. It starts at 0 and should level off; a steep climb late "
        "in the run is how a policy that games its reward model looks.",
        [Line("ppo/kl", "KL"), Line("ppo/validation_kl", "on validation prompts", "ink", dots=True)],
        bottom=0.0,
    ),
    Plot(
        "Entropy",
        "nats a token",
        "How undecided the policy is at each token. A slow fall is the price of getting better; a drop to near 0 "
        "means that it says the same thing whatever it is asked.",
        [Line("ppo/entropy", "entropy")],
    ),
    Plot(
        "Clip fraction",
        "share of tokens",
        "How many tokens hit the clip of the ratio. A few per cent to 20% is healthy; always 0 means steps too "
        "small to matter, far above 0.3 steps too large.",
        [Line("ppo/clip_fraction", "clip fraction")],
        bottom=0.0,
    ),
    Plot(
        "Explained variance",
        "of the returns, by the critic",
        "1 is a perfect forecast, 0 no better than a constant (dashed), below 0 worse than that. It should climb "
        "above 0 and stay there; noise early on is normal.",
        [Line("ppo/explained_variance", "explained variance")],
        level=0.0,
    ),
    Plot(
        "Answer length",
        "tokens",
        "A reward model that likes long answers teaches the policy to write long ones. A length that climbs with "
        "the reward is the first thing to suspect.",
        [Line("ppo/response_length", "length")],
    ),
    Plot(
        "Finished answers",
        "share that ended by themselves",
        "The rest ran into the length limit and paid the penalty for it. It should stay high or rise.",
        [Line("ppo/eos_fraction", "finished")],
        bottom=0.0,
    ),
)

PPO_GRADIENT_NORMS = Plot(
    "Gradient norms",
    "before clipping",
    "How hard a batch pulls at actor and critic. Steady is healthy.",
    [Line("ppo/actor_grad_norm", "actor"), Line("ppo/critic_grad_norm", "critic", "sft")],
    bottom=0.0,
)

MORE_PPO = (
    Plot(
        "Approximate KL of an update",
        "nats a token",
        "How far each update moved the policy from the one that wrote the answers. Around 0.01 is a normal step; "
        "above 0.1 a leap.",
        [Line("ppo/approx_kl", "approximate KL")],
        bottom=0.0,
    ),
    PPO_GRADIENT_NORMS,
    Plot(
        "Price of KL",
        "kl_coef",
        "What one nat of distance costs. Flat when it is fixed; with `ppo.kl_target` it moves until the KL is on "
        "target.",
        [Line("ppo/kl_coef", "kl_coef")],
    ),
    Plot("Learning rate", "actor", "Falls to 0 over the run.", [Line("ppo/lr", "lr")]),
)


def figures(record: Record, plotted: Sequence[Plot], *, mark: float | None = None) -> Figures | None:
    """The plots whose main metric was logged; `mark` is the index of the chosen checkpoint. None when there is none."""
    drawn = [_figure(record, plot, mark) for plot in plotted if curve(record, plot.lines[0].metric)[1]]
    return Figures(drawn) if drawn else None


def ppo_blocks(record: Record) -> list[Figures | Fold]:
    """The curves of PPO, the trade of score against distance, and the rest folded away."""
    mark = number(record.results, "best_checkpoint", "update")
    shown = figures(record, PPO, mark=mark)
    if shown is None:
        return []
    trade = trade_off(record, mark)
    more = figures(record, MORE_PPO, mark=mark)
    blocks: list[Figures | Fold] = [Figures([*shown.figures, *([trade] if trade else [])])]
    return [*blocks, Fold("More curves of PPO", [more])] if more else blocks


def trade_off(record: Record, mark: float | None) -> Figure | None:
    """Score against KL, on validation prompts where they were measured."""
    for kind, place in (("validation_", "validation prompts"), ("", "the training prompts of each update")):
        rows = [row for row in record.metrics if number(row, f"ppo/{kind}score") is not None]
        points = [(number(row, f"ppo/{kind}kl"), number(row, f"ppo/{kind}score"), row) for row in rows]
        known = [(kl, score, row) for kl, score, row in points if kl is not None and score is not None]
        if len(known) < 2:
            continue
        chosen = next((i for i, (_, _, row) in enumerate(known) if row.get("index") == mark), None)
        xs, ys = [kl for kl, _, _ in known], [score for _, score, _ in known]
        return Figure(
            title="What the distance bought",
            unit="score (up) against KL in nats (right)",
            says=f"Each point is a measurement on {place}, pale early, full late. Up and to the left is better: "
            "much score for little distance. A path that runs right without climbing pays for nothing."
            + (" The ring is the checkpoint that was kept." if chosen is not None else ""),
            svg=plots.path(xs, ys, name="trade", mark=chosen),
            legend=[],
            change="",
            numbers=ys,
        )
    return None


def calibration(record: Record) -> Figures | None:
    """Whether the reward model's certainty is deserved, a line for each data set."""
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
        unit="how often right (up) against how sure (right)",
        says="Of the held-out pairs in which the reward model was, say, 80% sure, it should be right in 80% (dashed). "
        "Below the line it is too sure of itself, above it too modest.",
        svg=plots.calibration(lines, name="calibration"),
        legend=[Key(line.label, line.colour) for line in lines],
        change="",
        numbers=[],
    )
    return Figures([figure])


def _figure(record: Record, plot: Plot, mark: float | None) -> Figure:
    series = [Series(line.label, line.colour, *curve(record, line.metric), dots=line.dots) for line in plot.lines]
    series = [one for one in series if one.ys]
    values = series[0].ys
    tenth = max(1, len(values) // 10)
    first, last = sum(values[:tenth]) / tenth, sum(values[-tenth:]) / tenth
    legend = [Key(one.label, one.colour, one.dots) for one in series] if len(series) > 1 else []
    return Figure(
        title=plot.title,
        unit=plot.unit,
        says=plot.says,
        svg=plots.curves(
            series, name=plot.lines[0].metric.replace("/", "-"), level=plot.level, bottom=plot.bottom, mark=mark
        ),
        legend=legend,
        change=_change(first, last) if len(values) > 1 else num(last),
        numbers=values,
    )


def _change(first: float, last: float) -> str:
    """From where to where; beside the other, a thousandth is nothing."""
    largest = max(abs(first), abs(last))
    return " → ".join(num(value if abs(value) > 1e-3 * largest else 0.0) for value in (first, last))
