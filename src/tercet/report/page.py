"""Write the report of a run as one self-contained HTML page and as Markdown."""

from pathlib import Path

import yaml

from tercet.report import answers, arm, checks, dpo, render_html, render_markdown, rounds, summary, tables
from tercet.report.blocks import Block, Code, Figures, Fold, Page, Prose, Section, Table
from tercet.report.curves import lm as curves
from tercet.report.curves.figures import calibration, kept_update, ppo_blocks, without_critic
from tercet.report.curves.plot import figures
from tercet.report.formats import duration
from tercet.report.records import Record, algorithm, find, is_arm, read
from tercet.runs.atomic import write_text
from tercet.version import __version__


def write(run: Path) -> Path:
    """Write `run`/report.html and `run`/report.md from the files of the run so far; return the HTML file.

    Steps that are not finished are left out or shown as unfinished. Raise InputError if `run` is not a run folder.
    """
    page = compose(read(run))
    write_text(run / "report.md", render_markdown.render(page))
    html = run / "report.html"
    write_text(html, render_html.render(page))
    return html


def compose(record: Record) -> Page:
    """Return the page of a run."""
    if is_arm(record):
        top, sections = arm.top(record), [*arm.sections(record), Section("run", "What was run", _run(record))]
    else:
        top = [summary.headline(record), summary.cards(record), *_present(checks.checks(record))]
        sections = _of_language(record)
    return Page(
        title=record.name,
        subtitle=_subtitle(record),
        top=top,
        sections=[section for section in sections if section.blocks],
        footer=f"Made by Tercet {__version__} from the files of the run folder; results.json holds every figure of "
        "this page, metrics.jsonl every point of its curves.",
    )


def _of_language(record: Record) -> list[Section]:
    return [
        Section("better", "Did it get better?", _present(tables.win_rates(record), tables.stages(record))),
        Section("imitate", "1. Imitate: SFT", _present(figures(record, curves.SFT))),
        Section("judge", "2. Judge: reward model", _judge(record)),
        Section("improve", f"3. Improve: {algorithm(record)}", _improve(record)),
        Section("dpo", "In place of PPO: DPO", _present(dpo.accuracy(record), figures(record, curves.DPO))),
        Section("rounds", "4. Rounds: new judgements of PPO's answers", rounds.blocks(record)),
        Section("answers", "Answers side by side", answers.fixed_prompts(record)),
        Section("held-out", "Held-out prompts", answers.held_out(record)),
        Section("samples", "As training went on", answers.samples(record)),
        Section("run", "What was run", _run(record)),
    ]


def _judge(record: Record) -> list[Block]:
    plotted = [drawn for drawn in (figures(record, curves.REWARD), calibration(record)) if drawn]
    drawn = Figures([figure for figures in plotted for figure in figures.figures]) if plotted else None
    return _present(tables.reward_model(record), drawn, tables.forgetting(record), tables.reward_texts(record))


def _improve(record: Record) -> list[Block]:
    drawn = ppo_blocks(record)
    lead = "One update is one batch of sampled answers and the optimizer steps on it."
    lead += kept_update(record, "prompts") + without_critic(record)
    return [*([Prose(lead)] if drawn else []), *drawn, *_present(tables.self_check(record))]


def _run(record: Record) -> list[Block]:
    timed = tables.times(record)
    blocks: list[Block] = []
    if timed:
        total = duration(sum(timed.values()))
        rows = [[step, duration(seconds)] for step, seconds in timed.items()]
        blocks.append(Table("Time", f"{total} in all.", ["step", "time"], rows, "lr"))
    environment = [[key, _plain(value)] for key, value in tables.flat(record.environment).items()]
    if environment:
        blocks.append(Table("Environment", "What it ran on.", ["", ""], environment, "lw"))
    text = yaml.safe_dump(record.config, sort_keys=False, allow_unicode=True)
    blocks.append(Prose("The complete config. Save it to a file and use `--preset FILE` to repeat the run."))
    return [*blocks, Fold("config.yaml", [Code("yaml", text.rstrip())], printed=True)]


def _subtitle(record: Record) -> str:
    sources = find(record.config, "data", "train") or []
    facts = {
        "preset": find(record.environment, "preset"),
        "model": find(record.config, "model", "path"),
        "env": find(record.config, "env"),
        "data": ", ".join(str(find(source, "path") or source) for source in sources[:4]),
        "on": find(record.environment, "machine", "processor"),
        "in": duration(sum(tables.times(record).values())),
    }
    return " · ".join(f"{name} {fact}" for name, fact in facts.items() if fact)


def _plain(value: object) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if value is not None and text else "none"


def _present(*blocks: Block | None) -> list[Block]:
    return [block for block in blocks if block is not None]
