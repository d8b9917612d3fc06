"""The outcome of a language run in a few sentences, and an overview of the three steps."""

from tercet.core.intervals import Interval
from tercet.report import dpo
from tercet.report.blocks import Card, Cards, Headline
from tercet.report.formats import duration, interval, listed, num, percent
from tercet.report.records import (
    Record,
    algorithm,
    curve,
    find,
    is_of_comparison,
    kl_bound,
    number,
    progress,
    rate,
    unseen_judges,
    verdict,
)
from tercet.runs.rounds import in_round


def headline(record: Record) -> Headline:
    """State the result of the last comparison that was measured, then the steps before it."""
    name, won = _won(record)
    if won is not None:
        more = [*_unseen(record), *_dpo(record), *_rounds(record), *_earlier_results(record), *_caveat(record, name)]
        return Headline(_outcome(record, won, name), more, verdict(won))
    results = _earlier_results(record)
    if of_dpo := dpo.win(record)[1]:
        return Headline(dpo.sentence(record), [*results, "PPO has not been measured against SFT."], verdict(of_dpo))
    if results and not is_of_comparison(record):
        rest = [*results[1:], "PPO has not been measured against SFT yet."]
        return Headline(results[0], rest, "open")
    text, next_step = progress(record)
    return Headline(text, [next_step, *results], "open")


def cards(record: Record) -> Cards:
    """Show the result and the time of each of the three steps."""
    return Cards([_imitate(record), _judge(record), _improve(record)])


def accuracies(record: Record) -> dict[str, Interval]:
    """Return the reward model's accuracy on each data set."""
    sets = find(record.results, "reward_model", "accuracy") or {}
    intervals = {name: rate(sets, name) for name in sorted(sets)}
    return {name: one for name, one in intervals.items() if one is not None}


def _won(record: Record) -> tuple[str, Interval | None]:
    """Return PPO's win rate against SFT by the judge, or else by the reward model."""
    rates = {judge: rate(record.results, "win_rate", "ppo_vs_sft", judge) for judge in ("judge", "reward_model")}
    return next(((judge, one) for judge, one in rates.items() if one is not None), ("", None))


def _outcome(record: Record, won: Interval, judge: str) -> str:
    kl = number(record.results, "kl_to_reference")
    cost = f", at a KL of {num(kl)} nats per answer" if kl is not None else ""
    by = " by the reward model's own score" if judge == "reward_model" else ""
    of = f"{won.num} held-out prompts{by} ({interval(won)}){cost}."
    match verdict(won):
        case "better":
            return f"PPO beat SFT on {percent(won.mean)} of {of}"
        case "worse":
            return f"PPO lost to SFT: it won only {percent(won.mean)} of {of}"
        case _:
            return f"No significant difference between PPO and SFT: PPO won {percent(won.mean)} of {of}"


def _unseen(record: Record) -> list[str]:
    """State PPO's win rate against SFT by each judge that took no part in training."""
    rates = {name: rate(record.results, "win_rate", "ppo_vs_sft", name) for name in unseen_judges(record)}
    parts = [f"{percent(one.mean)} by {name.replace('_', ' ')} ({interval(one)})" for name, one in rates.items() if one]
    return [f"By judges that took no part in training, PPO won {listed(parts)}."] if parts else []


def _dpo(record: Record) -> list[str]:
    return [text] if (text := dpo.sentence(record)) else []


def _rounds(record: Record) -> list[str]:
    """State the win rate of the last round that was measured."""
    for one in reversed(record.rounds):
        stage = in_round("ppo", one.number)
        for judge, by in (("judge", ""), ("reward_model", " by the reward model's score")):
            sft, ppo = (rate(record.results, "win_rate", f"{stage}_vs_{other}", judge) for other in ("sft", "ppo"))
            if sft and ppo:
                rounds = "1 round" if one.number == 1 else f"{one.number} rounds"
                return [
                    f"After {rounds} of new judgements, the policy won {percent(sft.mean)} against SFT "
                    f"({interval(sft)}) and {percent(ppo.mean)} against PPO without rounds ({interval(ppo)}){by}."
                ]
    return []


def _earlier_results(record: Record) -> list[str]:
    """Return one sentence for each step that was measured."""
    results = record.results
    sentences = []
    before, after = number(results, "perplexity", "base"), number(results, "perplexity", "sft")
    if before is not None and after is not None:
        verb = "lowered" if after < before else "did not lower"
        sentences.append(f"SFT {verb} the perplexity on held-out answers: {num(before)} before, {num(after)} after.")
    accuracy = accuracies(record)
    if accuracy:
        parts = [
            f"{percent(one.mean)} of {one.num} held-out pairs from {name} ({interval(one)})"
            for name, one in accuracy.items()
        ]
        sentences.append(f"The reward model picks the preferred answer in {listed(parts)}.")
    scores = [number(results, "mean_score", stage, "judge") for stage in ("sft", "ppo")]
    if None not in scores:
        sentences.append(
            f"The judge's mean score changed from {num(scores[0])} after SFT to {num(scores[1])} after PPO."
        )
    best, updates = number(results, "best_checkpoint", "update"), len(curve(record, "ppo/score")[1])
    bound = kl_bound(record)
    bounds = [f"the KL bound of {bound:g} nats"] if bound is not None else []
    bounds += ["`ppo.stop_on`"] if find(record.config, "ppo", "stop_on") else []
    within = f" within {listed(bounds)}" if bounds else ""
    if best == 0 and updates:
        sentences.append(
            f"None of {updates} updates was better on validation prompts{within} than the initial policy, which was "
            "kept."
        )
    elif best is not None and updates:
        sentences.append(
            f"Of {updates} updates, the policy after update {best:.0f} was kept: the best score on validation prompts"
            f"{within}."
        )
    return [*sentences, *_stopped(record)]


def _stopped(record: Record) -> list[str]:
    """Say why training stopped early, if it did."""
    update, planned = number(record.results, "stopped", "update"), number(record.config, "ppo", "num_updates")
    falls = find(record.results, "stopped", "falls")
    if update is None or planned is None or not isinstance(falls, dict):
        return []
    fell = listed([f"{name.replace('_', ' ')} by {num(number(falls, name))}" for name in falls])
    return [f"PPO stopped after update {update:.0f} of {planned:.0f}, because a watched judge fell: {fell}."]


def _caveat(record: Record, judge: str) -> list[str]:
    """Explain what the comparison shows and what it does not."""
    paid = find(record.config, "ppo", "reward") or {}
    function = find(record.config, "judge")
    if judge == "reward_model":
        if judge not in paid:
            return []
        return [
            "PPO was trained on the same reward model: this shows that PPO optimised it, not that the answers are "
            "better."
        ]
    compared = f"Both answers to a prompt were compared by the judge{f' `{function}`' if function else ''}"
    if function in paid:
        return [f"{compared}, on which PPO was also trained; read the answers below before you trust the number."]
    if list(paid) == ["reward_model"]:
        pairs = "pairs that the judge ranked" if record.sampled_pairs else "the pairs of the data"
        return [f"{compared}. PPO was not trained on the judge but on the reward model, which was trained on {pairs}."]
    return [f"{compared}."]


def _imitate(record: Record) -> Card:
    before, after = (number(record.results, "perplexity", stage) for stage in ("base", "sft"))
    loss = curve(record, "sft/loss")[1]
    lines = [f"loss {num(loss[0])} → {num(loss[-1])} in {len(loss)} steps"] if loss else []
    measured = before is not None and after is not None
    return Card(
        number=1,
        name="SFT",
        verb="Imitate",
        figure=f"{num(before)} → {num(after)}" if measured else _state(loss),
        label="perplexity, held-out" if measured else "",
        lines=lines,
        seconds=_time(record, "sft"),
        done=bool(loss),
        role="sft",
    )


def _judge(record: Record) -> Card:
    loss = curve(record, "reward/loss")[1]
    accuracy = accuracies(record)
    lines = [
        f"{name}: {percent(one.low)} to {percent(one.high)} of {one.num} pairs"
        for name, one in list(accuracy.items())[:3]
    ]
    mean = sum(one.mean for one in accuracy.values()) / len(accuracy) if accuracy else None
    paid = find(record.config, "ppo", "reward") or {}
    unused = not loss and not accuracy and "reward_model" not in paid
    if unused:
        lines = [f"the reward is {name.rpartition(':')[2]}" for name in paid]
    label = "accuracy, held-out pairs" + (f", mean of {len(accuracy)} sets" if len(accuracy) > 1 else "")
    return Card(
        number=2,
        name="Reward model",
        verb="Judge",
        figure=percent(mean) if mean is not None else "not in this run" if unused else _state(loss),
        label=label if accuracy else "",
        lines=lines,
        seconds=_time(record, "reward"),
        done=bool(loss or accuracy),
        role="other",
    )


def _improve(record: Record) -> Card:
    score, kl = curve(record, "ppo/score")[1], number(record.results, "kl_to_reference")
    _, won = _won(record)
    lines = [f"score {num(score[0])} → {num(score[-1])} in {len(score)} updates"] if score else []
    lines += [f"KL {num(kl)} nats per answer"] if kl is not None else []
    return Card(
        number=3,
        name=algorithm(record),
        verb="Improve",
        figure=percent(won.mean) if won else _state(score),
        label="wins against SFT, held-out" if won else "",
        lines=lines,
        seconds=_time(record, "ppo"),
        done=bool(score),
        role="ppo",
    )


def _state(values: list[float]) -> str:
    return "under way" if values else "not run yet"


def _time(record: Record, step: str) -> str:
    return duration(number(record.results, "seconds", step))
