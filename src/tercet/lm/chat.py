"""A conversation in the terminal with any stage of a run."""

import sys
from collections.abc import Callable, Iterable, Iterator

import torch

from tercet.config.lm import LmConfig
from tercet.config.load import recorded_config
from tercet.errors import FailedError, InputError
from tercet.lm.data.examples import Example, Message
from tercet.lm.models.roles import Policy, load_policy
from tercet.lm.models.weights import window_of
from tercet.lm.sampling.generate import generate
from tercet.lm.stages import Stage, stages_of
from tercet.lm.text.encoder import Encoder
from tercet.runs.folder import RunFolder
from tercet.runs.progress import say
from tercet.runs.screen import write

HELP = (
    "/new starts over, /stage NAME lets another stage answer, /greedy and /sample choose how, Ctrl-C stops an answer, "
    "/quit ends"
)
LONGEST_LINE = 1 << 16  # bytes; a terminal sends 4,096 at most


def run(folder: RunFolder, *, stage: str) -> None:
    """Talk with a stage of a run until the input ends."""
    config = recorded_config(LmConfig, folder.config_dict, folder.path)
    Conversation(stages_of(folder, config), stage, config, write=write).hold(typed(sys.stdin.buffer.readline))


def typed(readline: Callable[[int], bytes]) -> Iterator[str | InputError]:
    """Lines of standard input until it ends or Ctrl-C; an error in place of one that is too long or no text."""
    number = 0
    try:
        while True:
            write("you: ")
            if not (line := readline(LONGEST_LINE + 1)):
                break
            number += 1
            yield _text_of(line, readline, f"line {number}")
    except KeyboardInterrupt:
        pass
    write("\n")


def _text_of(line: bytes, readline: Callable[[int], bytes], place: str) -> str | InputError:
    if len(line) > LONGEST_LINE:
        while not line.endswith(b"\n") and (line := readline(LONGEST_LINE)):
            pass  # what is left of it is not the next line
        return InputError(f"{place} has more than {LONGEST_LINE:,} bytes; it was not read, give a shorter one")
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        return InputError(f"{place} is no UTF-8 (byte 0x{line[error.start]:02x}); it was not read, give it again")


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

    def hold(self, lines: Iterable[str | InputError]) -> None:
        """Answer each line until there are no more, or /quit; what is wrong with one line is said, and no more."""
        say(f"{self.stage}: {HELP}")
        for line in lines:
            try:
                if isinstance(line, InputError):
                    raise line
                if line.strip() == "/quit":
                    return
                self._obey(line.strip())
            except (InputError, FailedError) as error:
                say(str(error))

    def reply(self, text: str) -> str:
        """The stage's answer to one more turn of the user, written out as it is made; Ctrl-C stops it where it is."""
        turns, prompt = self._fitting([*self.turns, Message("user", text)])
        ids: list[int] = []
        written = ""

        def show(token: int) -> None:
            ids.append(token)
            catch_up(unfinished=True)

        def catch_up(*, unfinished: bool) -> None:
            nonlocal written
            whole = self.encoder.text(ids)
            if unfinished and whole.endswith("\ufffd"):  # a character may need several tokens
                return
            self.write(whole.removeprefix(written) if whole.startswith(written) else "")
            written = whole

        try:
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
            catch_up(unfinished=False)
        except KeyboardInterrupt:
            self.write(" (stopped)")
        self.write("\n")
        self.turns = [*turns, Message("assistant", written)]
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

    def _fitting(self, turns: list[Message]) -> tuple[list[Message], list[int]]:
        """The turns that the model's window holds with an answer, and their ids; the oldest are forgotten, with a word.

        InputError where the last message alone is too long, or the template refuses them.
        """
        window = window_of(self.policy.model.config) or 10**9
        ids: list[int] = []
        for first in range(0, len(turns), 2):
            ids = self.encoder.prompt(Example(tuple(turns[first:]), "", None, "chat", "chat"))
            if len(ids) + self.config.eval.max_response_tokens <= window:
                if first:
                    say(f"(the first {first} turns are forgotten: the model's window holds {window} tokens)")
                return turns[first:], ids
        raise InputError(f"this message has {len(ids)} tokens, more than the model's window of {window} holds")

    def _take(self, stage: str) -> None:
        if stage not in self.stages:
            raise InputError(f"stage {stage or '(none)'}: this run has {', '.join(self.stages)}")
        self.stage = stage
        self.policy: Policy = load_policy(self.config, path=self.stages[stage].path)
        self.encoder = Encoder.of(self.config)
        say(f"{stage} answers now")
