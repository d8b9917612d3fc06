"""`tercet label`: questions to people, and their answers as files."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from tercet.cli.commands import DebugOption
from tercet.cli.lm import hush
from tercet.cli.options import HostOption, KeyOption, key_for, port_option
from tercet.errors import InputError
from tercet.runs.progress import say
from tercet.runs.screen import counted


def label(
    run: Annotated[
        Path,
        typer.Argument(metavar="DIR", help="The folder of the run, a copy of its feedback/, or any folder for labels."),
    ],
    sources: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="SOURCE",
            help="What to ask about: a data set of pairs, a stage such as sft, or two such as sft ppo, or "
            "ppo runs/other:ppo. By default, the open questions in DIR.",
        ),
    ] = None,
    thumbs: Annotated[
        bool, typer.Option("--thumbs", help="Ask for thumbs up or down on one answer, not for the better of two.")
    ] = False,
    num: Annotated[
        int, typer.Option("--num", "-n", min=1, max=100_000, help="Questions to ask about the sources.")
    ] = 50,
    order: Annotated[
        str, typer.Option("--next", help="random, or disputed: those on which the reward models disagree most.")
    ] = "random",
    same: Annotated[
        float, typer.Option("--same", min=0, max=1, help="Share of the questions that every person is asked.")
    ] = 0.0,
    taken_from: Annotated[
        str, typer.Option("--import", metavar="FILE|DIR", help="Add the labels of a data set of pairs, and end.")
    ] = "",
    export_to: Annotated[
        Path | None,
        typer.Option("--export", metavar="FILE|DIR", help="Write the answers as pairs: .jsonl or a data set folder."),
    ] = None,
    ties: Annotated[
        bool, typer.Option("--ties", help="Export equally good answers too, as rows without a chosen one.")
    ] = False,
    host: HostOption = "127.0.0.1",
    port: Annotated[int, port_option()] = 8765,
    api_key: KeyOption = "",
    debug: DebugOption = False,
) -> None:
    """Open a web page on which people answer questions: those of a run, or about answers of stages or a data set.

    For a remote machine, keep the default --host and open a tunnel: ssh -L 8765:127.0.0.1:8765 COMPUTER
    """
    if order not in ("random", "disputed"):
        raise InputError(f"--next {order}: must be random or disputed")
    if thumbs and not sources:
        raise InputError("--thumbs: needs something to ask about, such as a stage: `tercet label DIR ppo --thumbs`")
    if ties and export_to is None:
        raise InputError("--ties: needs --export, which writes the labels")
    if taken_from:
        hush()
        from tercet.lm.labels.imported import import_labels

        say(import_labels(run, taken_from))
    elif export_to is not None:
        from tercet.feedback.pairs import export

        say(export(run / "feedback", export_to, ties=ties))
    else:
        sheet = _asked(run, sources, thumbs=thumbs, num=num, disputed=order == "disputed") if sources else None
        _open(run, sheet, same=same, host=host, port=port, key=key_for(host, api_key), debug=debug)


def _asked(run: Path, sources: list[str], *, thumbs: bool, num: int, disputed: bool) -> str:
    """Write the questions about the sources, unless some are open; return the name of their sheet."""
    hush()
    from tercet.lm.labels.ask import ask

    sheet = ask(run, sources, "thumbs" if thumbs else "answers", num, disputed=disputed)
    say(f"{counted(len(sheet.questions), 'question')}: {sheet.path}")
    return sheet.path.name


def _open(run: Path, sheet: str | None, *, same: float, host: str, port: int, key: str, debug: bool) -> None:
    """Serve the page of one sheet, or of all, until Ctrl-C."""
    from tercet.web.label import Desk
    from tercet.web.label_page import serve

    then = "give the run's command again"
    if sheet:
        then = f"`tercet label {shlex.quote(str(run))} --export pairs.jsonl` writes the pairs"
    desk = Desk(run, only=[sheet] if sheet else [], same=same)

    def ready(url: str) -> None:
        say(f"label: {url} (Ctrl-C ends)")

    waiting = serve(desk, host=host, port=port, key=key, debug=debug, ready=ready)
    say(f"{counted(waiting, 'question')} still open" if waiting else f"all questions are answered: {then}")
