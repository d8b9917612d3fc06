"""A conversation in the terminal with any stage of a run."""

from collections.abc import Callable, Iterable
from pathlib import Path

import torch

from tercet.config.lm import LmConfig
from tercet.errors import InputError
from tercet.lm.encoding import Encoder
from tercet.lm.examples import Example, Message
from tercet.lm.generate import generate
from tercet.lm.models import Policy, load_policy
from tercet.lm.stages import Stage, stages_of
from tercet.lm.weights import window_of
from tercet.runs.folder import RunFolder
from tercet.runs.progress import say

HELP = "/new starts over, /stage NAME lets another stage answer, /greedy and /sample choose how, /quit ends"


def run(path: Path, *, stage: str) -> None:
    """Talk with a stage of the run at `path` until the input ends."""
    folder = RunFolder.read(path)
    config = LmConfig.model_validate(folder.config_dict)
    Conversation(stages_of(folder, config), stage, config, write=lambda text: print(text, end="", flush=True)).hold(
        _typed()
    )


class Conversation:
    """Turns of a user and a stage; commands begin with a slash."""

    def __init__(
        self,
        stages: list[Stage],
        stage: str,
        config: LmConfig,
        *,
        write: Callable[[str], None],
        seed: int | None = None,
    ) -> None:
        self.stages, self.config, self.write = {s.name: s for s in stages}, config, write
        self.turns: list[Message] = []
        self.temperature = config.ppo.temperature
        self.generator = torch.Generator()
        self.generator.seed() if seed is None else self.generator.manual_seed(seed)  # a talk need not repeat itself
        self._take(stage)

    def hold(self, lines: Iterable[str]) -> None:
        """Answer each line until there are no more, or /quit."""
        say(f"{self.stage}: {HELP}")
        for line in lines:
            if line.strip() == "/quit":
                return
            try:
                self._obey(line.strip())
            except InputError as error:  # of this line alone: the conversation goes on
                say(str(error))

    def reply(self, text: str) -> str:
        """The stage's answer to one more turn of the user, written out as it is made."""
        self.turns.append(Message("user", text))
        try:
            prompt = self._prompt()
        except InputError:
            self.turns.pop()  # it was not read, so the conversation has not had it
            raise
        written = ""
        ids: list[int] = []

        def show(token: int) -> None:
            nonlocal written
            ids.append(token)
            whole = self.encoder.text(ids)
            if not whole.endswith("\ufffd"):  # a character may need several tokens
                self.write(whole.removeprefix(written) if whole.startswith(written) else "")
                written = whole

        with self.policy.autocast():
            generate(
                self.policy.model,
                [prompt],
                end_ids=self.encoder.ends.ids,
                max_tokens=self.config.eval.max_response_tokens,
                temperature=self.temperature,
                generator=self.generator,
                watch=show,
            )
        self.write("\n")
        self.turns.append(Message("assistant", written))
        return written

    def _obey(self, line: str) -> None:
        word, _, rest = line.partition(" ")
        if word == "/new":
            self.turns.clear()
        elif word == "/greedy":
            self.temperature = 0.0
        elif word == "/sample":
            self.temperature = self.config.ppo.temperature
        elif word == "/stage":
            self._take(rest.strip())
        elif word.startswith("/"):
            say(HELP)
        elif word:
            self.reply(line)

    def _prompt(self) -> list[int]:
        """The conversation's ids; the oldest turns are forgotten where the model's window is too short for all."""
        window = window_of(self.policy.model.config) or 10**9
        while True:
            ids = self.encoder.prompt(Example(tuple(self.turns), "", None, "chat", "chat"))
            if len(ids) + self.config.eval.max_response_tokens <= window:
                return ids
            if len(self.turns) == 1:
                raise InputError(f"this message has {len(ids)} tokens, more than the model's window of {window} holds")
            del self.turns[:2]

    def _take(self, stage: str) -> None:
        if stage not in self.stages:
            raise InputError(f"stage {stage or '(none)'}: this run has {', '.join(self.stages)}")
        self.stage = stage
        self.policy: Policy = load_policy(self.config, path=self.stages[stage].path)
        self.encoder = Encoder.of(self.config)
        say(f"{stage} answers now")


def _typed() -> Iterable[str]:
    while True:
        try:
            yield input("you: ")
        except EOFError:
            return
