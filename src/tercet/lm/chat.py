"""Chat in the terminal with any stage of a run."""

import sys
from collections.abc import Callable, Iterable, Iterator

import torch

from tercet.config.lm import LmConfig
from tercet.config.load import recorded_config
from tercet.errors import FailedError, InputError
from tercet.lm.data.examples import Example, Message
from tercet.lm.models.configs import window_of
from tercet.lm.models.roles import Policy, load_policy
from tercet.lm.sampling.generate import generate
from tercet.lm.stages import Stage, stages_of
from tercet.lm.text.encoder import Encoder
from tercet.runs.folder import RunFolder
from tercet.runs.progress import say
from tercet.runs.screen import write

HELP = (
    "/new starts a new conversation, /stage NAME switches to another stage, /greedy and /sample set how responses are "
    "sampled, Ctrl-C stops a response, /quit ends the chat"
)
LONGEST_LINE = 1 << 16  # bytes; a terminal sends 4,096 at most


def run(folder: RunFolder, *, stage: str) -> None:
    """Chat with a stage of a run until the input ends."""
    config = recorded_config(LmConfig, folder.config_dict, folder.path)
    stages = stages_of(folder, config.ppo.policy, config.reward.num_rounds)
    Conversation(stages, stage, config, write=write).hold(typed(sys.stdin.buffer.readline))


def typed(readline: Callable[[int], bytes]) -> Iterator[str | InputError]:
    """Yield lines of standard input until it ends or Ctrl-C; an InputError for a line that is too long or not UTF-8."""
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


def _text_of(line: bytes, readline: Callable[[int], bytes], name: str) -> str | InputError:
    if len(line) > LONGEST_LINE:
        while not line.endswith(b"\n") and (line := readline(LONGEST_LINE)):
            pass  # skip the rest of the line
        return InputError(f"{name} has more than {LONGEST_LINE:,} bytes; it was not read, give a shorter one")
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        return InputError(f"{name} is no UTF-8 (byte 0x{line[error.start]:02x}); it was not read, give it again")


class Conversation:
    """A chat between a user and a stage; commands begin with a slash."""

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
        self.encoder = Encoder.of(config)
        self.generator = torch.Generator()
        self.generator.seed() if seed is None else self.generator.manual_seed(seed)  # without a seed, chats differ
        self._switch_to(stage)

    def hold(self, lines: Iterable[str | InputError]) -> None:
        """Respond to each line until the end or /quit; an error in one line is printed, and the chat goes on."""
        say(f"{self.stage}: {HELP}")
        for line in lines:
            try:
                if isinstance(line, InputError):
                    raise line
                if line.strip() == "/quit":
                    return
                self._handle(line.strip())
            except (InputError, FailedError) as error:
                say(str(error))

    def reply(self, text: str) -> str:
        """Write the stage's response to the user's text token by token, and return it; Ctrl-C stops it."""
        turns, prompt = self._within_window([*self.turns, Message("user", text)])
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

    def _handle(self, line: str) -> None:
        word, _, rest = line.partition(" ")
        if word == "/new":
            self.turns.clear()
        elif word == "/greedy":
            self.temperature = 0.0
        elif word == "/sample":
            self.temperature = self.config.ppo.temperature
        elif word == "/stage":
            self._switch_to(rest.strip())
        elif word.startswith("/"):
            say(HELP)
        elif word:
            self.reply(line)

    def _within_window(self, turns: list[Message]) -> tuple[list[Message], list[int]]:
        """Drop the oldest turns until the rest fits into the context window with a response; return turns and ids.

        InputError if the last message alone is too long, or if the chat template refuses the turns.
        """
        window = window_of(self.policy.model.config) or 10**9
        ids: list[int] = []
        for first in range(0, len(turns), 2):
            ids = self.encoder.prompt(Example(tuple(turns[first:]), "", None, "chat", "chat"))
            if len(ids) + self.config.eval.max_response_tokens <= window:
                if first:
                    say(f"(the first {first} turns are dropped: the model's context window has {window} tokens)")
                return turns[first:], ids
        raise InputError(f"this message has {len(ids)} tokens, too many for the model's window of {window}")

    def _switch_to(self, stage: str) -> None:
        if stage not in self.stages:
            raise InputError(f"stage {stage or '(none)'}: this run has {', '.join(self.stages)}")
        self.stage = stage
        self.policy: Policy = load_policy(self.config, path=self.stages[stage].path)
        say(f"{stage} responds now")
