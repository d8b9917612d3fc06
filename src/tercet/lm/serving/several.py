"""The stages of several runs, answered side by side."""

from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace

from tercet.errors import InputError
from tercet.lm.data.examples import Message
from tercet.lm.serving.asks import Answerer, Ask, Cancel, Deliver, Scored


class Several:
    """Runs by name; the stage `sft` of the run `mine` is called `mine:sft`.

    One reward model scores all answers, so that their scores can be compared: that of the first run that has one.
    """

    def __init__(self, runs: Mapping[str, Answerer]) -> None:
        self._owners = {f"{name}:{stage}": (run, stage) for name, run in runs.items() for stage in run.stages}
        self.stages = tuple(self._owners)
        self.temperature = next(iter(runs.values())).temperature
        self._scorer = next((run for run in runs.values() if run.has_scores), None)
        self.has_scores = self._scorer is not None

    def submit(self, ask: Ask, deliver: Deliver) -> Cancel:
        """Start to answer (see `lm/serving/asks.py::Answerer`)."""
        run, stage = self._owners[ask.stage]
        return run.submit(replace(ask, stage=stage), deliver)

    def score(self, messages: Sequence[Message], text: str, *, ended: bool) -> Future[Scored]:
        """Score an answer (see `lm/serving/asks.py::Answerer`)."""
        if self._scorer is None:
            raise InputError("these runs have no reward model")
        return self._scorer.score(messages, text, ended=ended)
