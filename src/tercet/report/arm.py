"""The report of an arm's run: the outcome, the three steps, and videos."""

from tercet.core.intervals import Interval, wilson
from tercet.report import arm_return, tables
from tercet.report.arm_return import PPO_IS, is_by_return
from tercet.report.blocks import (
    Bar,
    Block,
    Card,
    Cards,
    Cell,
    Figures,
    Fold,
    Headline,
    Prose,
    Role,
    Section,
    Table,
    Video,
    Videos,
)
from tercet.report.checks import checks
from tercet.report.curves.arm import BC, MORE_PPO, PPO, RETURN, REWARD
from tercet.report.curves.figures import kept_update, without_critic
from tercet.report.curves.plot import figures
from tercet.report.doctor.arm import why_not
from tercet.report.formats import duration, interval, num, percent
from tercet.report.instructions import instructed
from tercet.report.on_arm import on_arm
from tercet.report.records import Record, algorithm, apart, curve, find, number, progress, rate, verdict

NAMES: dict[str, str] = {
    "bc": "BC",
    "bc_noise": "BC with noise",
    "start": "before PPO",
    "start_noise": "before PPO, with noise",
    "ppo": "PPO",
}
_SUBJECTS = NAMES | {"start": "the policy before PPO"}  # as the subject of a sentence
_ROLES: dict[str, Role] = {"bc": "sft", "bc_noise": "base", "start": "sft", "start_noise": "base", "ppo": "ppo"}


def top(record: Record) -> list[Block]:
    """Return the outcome, an overview of the steps, and the checks."""
    return _present(headline(record), cards(record), checks(record))


def sections(record: Record) -> list[Section]:
    """Return the sections of the page in their order."""
    outcome = (
        _present(arm_return.returns(record, NAMES, _starts(record)))
        if is_by_return(record)
        else _present(success(record), paired(record), instructed(record))
    )
    return [
        Section("better", "Did it get better?", outcome),
        Section("videos", "Side by side", videos(record)),
        Section("imitate", "1. Imitate: behaviour cloning", _present(figures(record, BC))),
        Section(
            "judge",
            "2. Judge: reward model",
            _present(reward_model(record), audit(record), figures(record, REWARD)),
        ),
        Section("improve", f"3. Improve: {algorithm(record)}", _improve(record)),
        Section("on_arm", "On an arm, with a person", on_arm(record)),
    ]


def headline(record: Record) -> Headline:
    """Compare PPO's success rate, or its return, with that of the policy before PPO."""
    if is_by_return(record):
        return arm_return.headline(record, _SUBJECTS)
    start, before, after = _compared(record)
    if before is None or after is None:
        text, next_step = progress(record)
        return _of_rounds(record) or Headline(text, [next_step], "open")
    alone = _alone(record)
    outcome = "even" if alone is None else verdict(alone)
    if find(record.results, "same_starts") is False:  # not paired: the intervals must not overlap
        outcome = apart(before, after)
    text = (
        f"{PPO_IS[outcome]}: success on {percent(after.mean)} of {after.num} fresh starts ({interval(after)}), "
        f"against {percent(before.mean)} for {_SUBJECTS[start]}."
    )
    paid = find(record.config, "ppo", "reward") or {}
    more = [f"The reward was {', '.join(f'`{name}`' for name in paid)}."]
    if alone is not None:
        won = f"that is PPO in {percent(alone.mean)} of them ({interval(alone)})"
        more.insert(0, f"On {alone.num} of these starts only one of the two succeeds; {won}.")
    if outcome != "better" and (why := why_not(record)):
        more.insert(0, f"Why: {why}.")
    tries = find(record.config, "ppo", "num_eval_states")
    if number(record.results, "reward_model", "accuracy") is not None and "reward_model" in paid:
        more.append(
            f"The reward was learned from {_judgements(record)}. PPO was trained neither on success nor on the "
            f"dense reward, but success on {tries} validation starts selected the checkpoint."
            if list(paid) == ["reward_model"]
            else "Part of the reward was learned from judgements of segments."
        )
    steps = number(record.results, "env_steps")
    if steps is not None:
        more.append(f"Environment steps in all: {steps:,.0f}.")
    return Headline(text, more, outcome)


def _of_rounds(record: Record) -> Headline | None:
    """Compare the policy after the last round of `tercet arm improve` with the clone, in a run without PPO."""
    rounds = find(record.results, "improve") or {}
    last = max(rounds, key=int, default="0")
    before, after = rate(rounds, "0", "success"), rate(rounds, last, "success")
    if last == "0" or before is None or after is None:
        return None
    outcome = apart(before, after)
    words = {
        "better": "The rounds on an arm improved the policy",
        "worse": "The rounds on an arm made the policy worse",
        "even": "No significant difference between the policy after the rounds on an arm and the clone",
    }
    text = (
        f"{words[outcome]}: success on {percent(after.mean)} of {after.num} simulated starts ({interval(after)}) after "
        f"{num(number(rounds, last, 'minutes'))} minutes, against {percent(before.mean)} for the clone."
    )
    return Headline(text, [], outcome)


def cards(record: Record) -> Cards:
    """Show the result and the time of each of the three steps."""
    by_return = is_by_return(record)
    start, before, after = arm_return.start_and_ppo(record) if by_return else _compared(record)
    shown, what = (num, "return on fresh starts") if by_return else (percent, "success on fresh starts")
    accuracy = number(record.results, "reward_model", "accuracy")
    demonstrations = number(record.results, "demonstrations", "num")
    loss, score = curve(record, "bc/loss")[1], curve(record, "ppo/success")[1]
    return Cards(
        [
            Card(
                1,
                "BC",
                "Imitate",
                shown(before.mean) if before and start == "bc" else "not in this run" if not loss else "cloned",
                what if before and start == "bc" else "",
                [f"from {_demonstrations(demonstrations)}"] if demonstrations else [],
                duration(number(record.results, "seconds", "bc")),
                bool(loss),
                "sft",
            ),
            Card(
                2,
                "Reward model",
                "Judge",
                percent(accuracy) if accuracy is not None else "not in this run",
                "accuracy on held-out judgements" if accuracy is not None else "",
                [f"from {_judgements(record)}"] if accuracy else [],
                duration(number(record.results, "seconds", "reward")),
                accuracy is not None,
                "other",
            ),
            Card(
                3,
                algorithm(record),
                "Improve",
                shown(after.mean) if after else "under way" if score else "not run yet",
                what if after else "",
                [f"{len(score)} updates"] if score else [],
                duration(number(record.results, "seconds", "ppo")),
                bool(score),
                "ppo",
            ),
        ]
    )


def success(record: Record) -> Table | None:
    """Show the success rate of every stage on the same new starts."""
    rows: list[list[Cell]] = []
    for name, title in NAMES.items():
        one = rate(record.results, "success", name)
        if one is None:
            continue
        measured = [
            number(record.results, "return", name, "mean"),
            number(record.results, "steps_to_success", name),
            number(record.results, "action_change", name),
            number(record.results, "jerk", name),
        ]
        rows.append([title, Bar(one, _ROLES[name]), f"{one.num}", *(num(value) for value in measured)])
    if not rows:
        return None
    return Table(
        "Success on fresh starts",
        f"{_starts(record)}, not used for training. The bar is the 95% interval on a scale from 0 to 100%; the line "
        "in the middle is one half. Return is the sum of the environment's dense reward. Steps to success are "
        "counted in episodes that ended in success. Change is the root mean square of action differences, jerk "
        "that of the joints (rad/s³); lower is smoother.",
        ["", "success", "starts", "return", "steps", "change", "jerk"],
        rows,
        "lbrrrrr",
    )


def _starts(record: Record) -> str:
    """Return whether all stages had the same starts; earlier runs did not record it and are assumed to have."""
    if find(record.results, "same_starts") is False:
        return "Each stage has different starts, because the environment does not reproduce a start from its seed"
    return "The same starts for every stage"


def paired(record: Record) -> Table | None:
    """Show which stage succeeds on which start."""
    counts = find(record.results, "paired")
    if not counts or find(record.results, "same_starts") is False:
        return None
    start, _, _ = _compared(record)
    titles = {
        "both": "both succeed",
        "only_ppo": "only PPO succeeds",
        "only_start": f"only {_SUBJECTS[start]} succeeds",
        "neither": "neither succeeds",
    }
    rows = [[title, _count(number(counts, key))] for key, title in titles.items()]
    return Table("Start by start", "Number of starts of the table above by outcome.", ["", "starts"], rows, "lr")


def videos(record: Record) -> list[Block]:
    """Show videos of the stages side by side from the same start."""
    missing = find(record.results, "videos_missing")
    if missing:
        return [Prose(f"No videos were made: {missing}")]
    if not record.videos:
        return []
    alike = find(record.results, "same_starts") is not False
    of_critic = ", the critic's value and the advantage" if algorithm(record) == "PPO" else ""
    beginning = "Both from the same start." if alike else "Each from a different start."
    caption = (
        f"{beginning} Above each picture: the reward of PPO{of_critic}, pale for the "
        "whole episode and in full colour up to the moment shown, on the same scale for both sides."
    )
    if find(record.config, "env") == "lift":
        caption += " The cube counts as lifted above the green frame."
    return [Videos(caption, [Video(one.caption, one.file, one.data) for one in record.videos])]


def reward_model(record: Record) -> Table | None:
    """Show the accuracy of the ensemble on held-out judgements."""
    keys = ("accuracy", "accuracy_low", "accuracy_high", "num_held_out")
    mean, low, high, held_out = (number(record.results, "reward_model", key) for key in keys)
    if mean is None or low is None or high is None:
        return None
    one = Interval(mean, low, high, int(held_out or 0))
    return Table(
        "Does it prefer the better segment?",
        "Accuracy on judgements about held-out episodes, with its 95% interval; the line in the middle is chance. "
        "The interval assumes independent judgements and is too narrow, because they share segments and few "
        "episodes. High accuracy does not show that a policy can be trained on the reward; success above does.",
        ["accuracy", "held out", "learned from"],
        [[Bar(one, "other"), f"{one.num}", _count(number(record.results, "reward_model", "num_pairs"))]],
        "brr",
    )


def audit(record: Record) -> Table | None:
    """Show how often a reward from pictures is wrong: on held-out episodes, and in those of each stage."""
    found = find(record.results, "reward_model", "audit")
    if not found:
        return None
    names = ("num_called", "num_success", "num_pictures", "num_episodes")
    called, success, pictures, episodes = (_count(number(found, name)) for name in names)
    right, recall = number(found, "precision"), number(found, "recall")
    rows: list[list[Cell]] = [
        ["precision", _share(right), f"of {called} pictures that it calls a success, the share that are one"],
        ["recall", _share(recall), f"of {success} pictures of a success, the share that it calls one"],
    ]
    for name, title in NAMES.items():
        one = rate(record.results, "hacked", name)
        if one is not None:
            text = f"of {one.num} episodes, the share whose end it calls a success and the simulator does not"
            rows.append([f"hacked, {title}", f"{percent(one.mean)} ({interval(one)})", text])
    return Table(
        "Is the reward from pictures right?",
        f"The truth is the simulator's. Precision and recall are over {pictures} pictures of {episodes} "
        "held-out episodes, which are not independent. A reward that is optimised is wrong more often: compare the "
        "share of hacked episodes after PPO with that before.",
        ["", "", ""],
        rows,
        "lrl",
    )


def _share(value: float | None) -> str:
    return "not measured" if value is None else percent(value)


def _improve(record: Record) -> list[Block]:
    mark = number(record.results, "best_checkpoint", "update")
    plotted = (RETURN, *PPO[1:]) if is_by_return(record) else PPO
    shown, more = figures(record, plotted, mark=mark), figures(record, MORE_PPO, mark=mark)
    if shown is None:
        return []
    lead = "One update is one episode in each environment and the optimizer steps on them."
    lead += kept_update(record, "starts") + without_critic(record)
    folded: list[Figures | Fold] = [Fold("More curves of PPO", [more])] if more else []
    return [Prose(lead), shown, *folded, *_present(_self_check(record))]


def _self_check(record: Record) -> Table | None:
    deviations = find(record.results, "self_check")
    if not deviations:
        return None
    rows = [[key.replace("_", " "), num(value)] for key, value in tables.flat(deviations).items()]
    return Table(
        "Self-check before the first update",
        "Before training, the training forward pass must agree with acting: ratio 1, KL 0, rewards that add up, "
        "values that are consistent from state to state. PPO does not start if a check fails.",
        ["", "largest deviation"],
        rows,
        "lr",
    )


def _compared(record: Record) -> tuple[str, Interval | None, Interval | None]:
    """Return the name of the policy that PPO is compared with, and the success rates of both."""
    start = "bc" if rate(record.results, "success", "bc") else "start"
    return start, rate(record.results, "success", start), rate(record.results, "success", "ppo")


def _alone(record: Record) -> Interval | None:
    """Return PPO's share of the starts on which only one of the two succeeds; other starts do not distinguish them."""
    ppo, start = (int(number(record.results, "paired", key) or 0) for key in ("only_ppo", "only_start"))
    if not ppo + start or find(record.results, "same_starts") is False:
        return None
    return wilson([1] * ppo + [0] * start)


def _judgements(record: Record) -> str:
    before, rounds = number(record.results, "reward_model", "num_pairs"), number(record.results, "rounds", "num")
    if not rounds:
        return f"{_count(before)} judgements of segments"
    more = number(record.results, "rounds", "num_pairs")
    times = "1 round" if rounds == 1 else f"{_count(rounds)} rounds"
    return f"{_count(before)} judgements of segments, and {_count(more)} more in {times} of PPO"


def _demonstrations(num: float) -> str:
    return "1 demonstration" if num == 1 else f"{_count(num)} demonstrations"


def _count(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}"


def _present(*blocks: Block | None) -> list[Block]:
    return [block for block in blocks if block is not None]
