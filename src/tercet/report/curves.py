"""The curves of the report: the meaning of each and how it looks in a healthy run."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from tercet.report import plots
from tercet.report.blocks import Figure, Figures, Fold, Key
from tercet.report.formats import num
from tercet.report.plots import Colour, Series
from tercet.report.records import Record, Tree, algorithm, curve, find, number, watched_judges
from tercet.runs.rounds import in_round


@dataclass(frozen=True)
class Line:
    """One metric in a plot."""

    metric: str
    label: str
    colour: Colour = "ppo"
    dots: bool = False
    right: bool = False  # against the right axis


@dataclass(frozen=True)
class Plot:
    """A plot: its lines (the first is the main one), its texts, and a reference level."""

    title: str
    unit: str
    caption: str
    lines: Sequence[Line]
    level: float | None = None
    bottom: float | None = None  # start of the axis; 0 for shares and sizes


SFT = (
    Plot(
        "SFT loss",
        "nats per token",
        "Negative log-likelihood of the human answers. It should fall fast, then flatten. The held-out perplexity "
        "above shows whether the model generalises.",
        [Line("sft/loss", "loss", "sft")],
    ),
    Plot(
        "SFT gradient norm",
        "before clipping",
        "It should stay steady. If it grows by orders of magnitude, the learning rate is too high.",
        [Line("sft/grad_norm", "norm", "sft")],
        bottom=0.0,
    ),
)

REWARD = (
    Plot(
        "Reward-model loss",
        "nats per pair",
        "Negative log-likelihood of the preferences. Chance is ln 2 = 0.69 (dashed). A value near 0 within one "
        "epoch means that the pairs are easy or memorised.",
        [Line("reward/loss", "loss", "other")],
        level=0.6931,
    ),
    Plot(
        "Accuracy on training batches",
        "share of pairs",
        "Share of pairs whose preferred answer scores higher, before the step on the batch. One half is chance "
        "(dashed). On human preference data, 0.6 to 0.75 is usual, because people do not agree much more often.",
        [Line("reward/accuracy", "accuracy", "other")],
        level=0.5,
    ),
    Plot(
        "Margin",
        "score difference",
        "Mean score of the preferred answer minus that of the other. It should grow, then settle. If it keeps "
        "growing while the accuracy does not, the model is overconfident.",
        [Line("reward/margin", "margin", "other")],
        level=0.0,
    ),
)

DPO = (
    Plot(
        "DPO loss",
        "nats per pair",
        "Negative log-likelihood of the preferences, with beta times the policy's log-ratio to the SFT policy as the "
        "score. It starts at ln 2 = 0.69 (dashed), because both policies are then the same.",
        [Line("dpo/loss", "loss", "other")],
        level=0.6931,
    ),
    Plot(
        "Accuracy on training batches",
        "share of pairs",
        "Share of pairs whose preferred answer has become more likely than the other, relative to the SFT policy. It "
        "starts at one half (dashed).",
        [Line("dpo/accuracy", "accuracy", "other")],
        level=0.5,
    ),
    Plot(
        "Implicit rewards",
        "beta times the log-ratio",
        "Of the preferred and of the other answers. Their difference, the margin, should grow. If both fall far, the "
        "policy gives up answers of either kind for others that no pair has.",
        [
            Line("dpo/margin", "margin", "other"),
            Line("dpo/reward_chosen", "preferred", "sft"),
            Line("dpo/reward_rejected", "other", "muted"),
        ],
        level=0.0,
    ),
    Plot(
        "KL to the reference",
        "nats per answer",
        "Distance of the policy from the SFT model, on answers that it samples to validation prompts. Nothing bounds "
        "it but beta and the number of steps.",
        [Line("dpo/validation_kl", "KL", "other")],
        bottom=0.0,
    ),
    Plot(
        "Gradient norm",
        "before clipping",
        "It should stay steady. If it grows by orders of magnitude, the learning rate is too high.",
        [Line("dpo/grad_norm", "norm", "other")],
        bottom=0.0,
    ),
)

EQUAL_GROUPS = Plot(
    "Groups of equal scores",
    "share of groups",
    "Groups in which all answers to a prompt, or all episodes from a start, have the same score. Nothing is learned "
    "from them. A share near 1 means that they are too easy or too hard, or that the reward cannot tell them apart.",
    [Line("ppo/equal_groups", "equal groups")],
    bottom=0.0,
)

PPO = (
    Plot(
        "Reward",
        "mean score of an answer",
        "The score of the answers, and the reward after the penalty for unfinished answers and the KL penalty in the "
        "reward. Both should rise and flatten. Circles are scores on validation prompts, on which PPO is not trained; "
        "they should rise too.",
        [
            Line("ppo/score", "score"),
            Line("ppo/reward", "reward, after penalties", "sft"),
            Line("ppo/validation_score", "validation", "ink", dots=True),
        ],
    ),
    Plot(
        "Clipped scores",
        "share of answers",
        "All answers with a score beyond ±`ppo.reward_clip` get the same reward. The share should be near 0. Near "
        "1, the reward no longer distinguishes answers.",
        [Line("ppo/reward_clip_fraction", "clipped")],
        bottom=0.0,
    ),
    Plot(
        "Actor loss",
        "clipped surrogate, per token",
        "This loss is not expected to fall: advantages have mean 0 in every update or group, so it starts each "
        "update at 0 and stays close to it. It should be small and without spikes. The reward shows the progress.",
        [Line("ppo/actor_loss", "actor loss")],
        level=0.0,
    ),
    Plot(
        "Critic loss",
        "squared error, per token",
        "Squared error of the predicted return. It should fall and stay low. It may rise for a while when the "
        "actor finds new kinds of answers.",
        [Line("ppo/critic_loss", "critic loss")],
        bottom=0.0,
    ),
    Plot(
        "KL to the reference",
        "nats per answer",
        "Distance of the policy from the SFT model. It starts at 0 and should level off. A steep rise late in the "
        "run is a sign of reward hacking.",
        [Line("ppo/kl", "KL"), Line("ppo/validation_kl", "on validation prompts", "ink", dots=True)],
        bottom=0.0,
    ),
    Plot(
        "Entropy",
        "nats per token",
        "Mean entropy of the policy per token. A slow fall is normal. A drop to near 0 means that the policy gives "
        "the same answer to every prompt.",
        [Line("ppo/entropy", "entropy")],
    ),
    Plot(
        "Clip fraction",
        "share of tokens",
        "Share of tokens whose ratio is clipped. A few per cent to 20% is normal. Always 0 means that steps are "
        "too small, far above 0.3 that they are too large.",
        [Line("ppo/clip_fraction", "clip fraction")],
        bottom=0.0,
    ),
    EQUAL_GROUPS,
    Plot(
        "Explained variance",
        "of the returns, by the critic",
        "1 is a perfect prediction, 0 is no better than a constant (dashed). It should rise above 0 and stay "
        "there. Noise at the beginning is normal.",
        [Line("ppo/explained_variance", "explained variance")],
        level=0.0,
    ),
    Plot(
        "Answer length",
        "tokens",
        "A reward model that favours length teaches the policy to write long answers. If length and reward rise "
        "together, check the reward for length bias.",
        [Line("ppo/response_length", "length")],
    ),
    Plot(
        "Finished answers",
        "share that ended with EOS",
        "The other answers reached the length limit and got the penalty for it. The share should stay high or rise.",
        [Line("ppo/eos_fraction", "finished")],
        bottom=0.0,
    ),
)

PPO_GRADIENT_NORMS = Plot(
    "Gradient norms",
    "before clipping",
    "Of the actor, and of the critic if there is one. They should stay steady.",
    [Line("ppo/actor_grad_norm", "actor"), Line("ppo/critic_grad_norm", "critic", "sft")],
    bottom=0.0,
)

MORE_PPO = (
    Plot(
        "Approximate KL of an update",
        "nats per token",
        "KL of each update from the policy that sampled the answers. Around 0.01 is normal; above 0.1 is too large.",
        [Line("ppo/approx_kl", "approximate KL")],
        bottom=0.0,
    ),
    PPO_GRADIENT_NORMS,
    Plot(
        "Mismatch of the sampler",
        "nats per token",
        "Mean difference between the log-probabilities of the engine that sampled the answers and those of the policy. "
        "About 1e-4 in fp32 and 0.01 in bf16 is rounding.",
        [Line("ppo/sampler_mismatch", "mismatch")],
        bottom=0.0,
    ),
    Plot(
        "KL term of the loss",
        "nats per token",
        "The estimate of the KL from the reference that is added to the loss, without its coefficient.",
        [Line("ppo/kl_loss", "KL term")],
        bottom=0.0,
    ),
    Plot(
        "KL coefficient",
        "kl_coef",
        "Coefficient of the KL penalty. It is constant, or with `ppo.kl_target` adapted until the KL reaches the "
        "target.",
        [Line("ppo/kl_coef", "kl_coef")],
    ),
    Plot("Learning rate", "actor", "It decays to 0 over the run.", [Line("ppo/lr", "lr")]),
)


def figures(record: Record, plotted: Sequence[Plot], *, mark: float | None = None) -> Figures | None:
    """Return the plots whose main metric was logged, or None; `mark` is the index of the selected checkpoint."""
    drawn = [_figure(record, plot, mark) for plot in plotted if curve(record, plot.lines[0].metric)[1]]
    return Figures(drawn) if drawn else None


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


def _figure(record: Record, plot: Plot, mark: float | None) -> Figure:
    series = [
        Series(line.label, line.colour, *curve(record, line.metric), dots=line.dots, right=line.right)
        for line in plot.lines
    ]
    series = [one for one in series if one.ys]
    values = series[0].ys
    tenth = max(1, len(values) // 10)
    first, last = sum(values[:tenth]) / tenth, sum(values[-tenth:]) / tenth
    legend = [Key(one.label, one.colour, one.dots) for one in series] if len(series) > 1 else []
    return Figure(
        title=plot.title,
        unit=plot.unit,
        caption=plot.caption,
        svg=plots.curves(
            series,
            name=in_round(plot.lines[0].metric.replace("/", "-"), record.number),
            level=plot.level,
            bottom=plot.bottom,
            mark=mark,
        ),
        legend=legend,
        change=_change(first, last) if len(values) > 1 else num(last),
        numbers=values,
    )


def _change(first: float, last: float) -> str:
    """Return the first and the last value in words; values below a thousandth of the other count as 0."""
    largest = max(abs(first), abs(last))
    return " → ".join(num(value if abs(value) > 1e-3 * largest else 0.0) for value in (first, last))
