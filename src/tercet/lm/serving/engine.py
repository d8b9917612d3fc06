"""Answer clients from the stages of a run: one thread computes, and requests join the batch that is being sampled."""

import secrets
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from queue import Empty, SimpleQueue
from threading import Thread

import torch

from tercet.config.lm import LmConfig
from tercet.config.load import recorded_config
from tercet.errors import FailedError, InputError, first_line
from tercet.lm.cpu.decoder import Decoder, Network, can_decode, network_of
from tercet.lm.cpu.packed import packed
from tercet.lm.data.examples import Example, Message
from tercet.lm.models.configs import window_of
from tercet.lm.models.roles import Policy, load_policy
from tercet.lm.sampling.model_check import check_policy
from tercet.lm.sampling.stepper import Stepper
from tercet.lm.serving.asks import Ask, Cancel, Deliver, Scored, Started, T, WindowError
from tercet.lm.serving.batch import Batch, Row
from tercet.lm.serving.scores import Scores
from tercet.lm.serving.vocabulary import Vocabulary
from tercet.lm.serving.writer import Writer
from tercet.lm.stages import Stage, last_reward_model, stages_of
from tercet.lm.text.encoder import Encoder
from tercet.runs.folder import RunFolder
from tercet.train.chance import generator

MOST_ROWS = 32  # of a stage that are sampled at one time; more wait
_USUAL_ROWS = 4  # for which weights are packed
TOKENS_BETWEEN_LOADS = 64  # that open responses are given before another model is loaded, which takes seconds


@dataclass(frozen=True)
class Loaded:
    """A stage in memory, ready to sample."""

    policy: Policy
    network: Network | None  # for the fast decoder, if it supports the model
    held: ExitStack  # packed weights of a model without a fast decoder

    @classmethod
    def of(cls, config: LmConfig, stage: Stage, *, is_first: bool) -> "Loaded":
        """Load a stage; the first one is tried on a few tokens, and the others of the run have its architecture."""
        policy = load_policy(config, path=stage.path)
        if is_first:
            check_policy(policy)
        held = ExitStack()
        with policy.autocast():
            if can_decode(policy.model, _USUAL_ROWS):
                return cls(policy, network_of(policy.model, _USUAL_ROWS), held)
            held.enter_context(packed(policy.model, _USUAL_ROWS))
        return cls(policy, None, held)

    def state(self, prompts: Sequence[Sequence[int]], pad_id: int) -> Decoder | Stepper:
        """Read the prompts."""
        if self.network is not None:
            return Decoder(self.policy.model, prompts, self.network)
        return Stepper(self.policy.model, prompts, pad_id)


def engine_of(folder: RunFolder) -> "Engine":
    """Return an engine for the finished stages of a run."""
    config = recorded_config(LmConfig, folder.config_dict, folder.path)
    rounds = config.reward.num_rounds
    return Engine(stages_of(folder, config.ppo.policy, rounds), config, last_reward_model(folder, rounds))


class Engine:
    """Sample responses for many clients; it has a thread of its own, in which all models are used."""

    def __init__(self, stages: Sequence[Stage], config: LmConfig, reward_path: str = "") -> None:
        """`reward_path` is the folder of the run's reward model, if it has one."""
        self.stages = tuple(stage.name for stage in stages)
        self.config, self.encoder = config, Encoder.of(config)
        self.temperature, self.has_scores = config.ppo.temperature, bool(reward_path)
        self._scores = Scores(config, reward_path, self.encoder)
        self._paths = {stage.name: stage for stage in stages}
        self._vocabulary = Vocabulary(self.encoder.tokenizer)
        self._loaded: dict[str, Loaded] = {}
        self._waiting: dict[str, list[Row]] = defaultdict(list)
        self._batches: dict[str, list[Batch]] = defaultdict(list)
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        # jobs that load a model unless an earlier one has, with the question whether they do
        self._loads: deque[tuple[Callable[[], bool], Callable[[], None]]] = deque()
        self._num_steps = 0  # tokens that open responses were given since a model was loaded
        self._thread = Thread(target=self._work, name="engine", daemon=True)
        self._thread.start()

    def submit(self, ask: Ask, deliver: Deliver) -> Cancel:
        """Start to answer (see `lm/serving/asks.py::Answerer`)."""
        cancelled: list[bool] = []
        self._put(partial(self._admit, ask, deliver, cancelled), loads=partial(self._must_load, ask.stage))
        return lambda: cancelled.append(True)

    def prepare(self) -> None:
        """Load all stages when there is nothing else to do; an error is told to the client who asks."""

        def load(stage: str) -> None:
            with suppress(Exception):
                self.load(stage)

        for stage in self.stages:
            self._put(partial(load, stage), loads=partial(self._must_load, stage))

    def call(self, function: Callable[[], T], *, loads: Callable[[], bool] = lambda: False) -> Future[T]:
        """Run a function between two tokens, in the thread that may use the models; `loads` as in `_put`."""
        future: Future[T] = Future()

        def job() -> None:
            try:
                future.set_result(function())
            except Exception as error:
                future.set_exception(error)

        self._put(job, loads=loads)
        return future

    def _put(self, job: Callable[[], None], *, loads: Callable[[], bool]) -> None:
        """Run a job between two tokens. If it `loads` a model, open responses go on first."""
        self._jobs.put(lambda: self._loads.append((loads, job)) if loads() else job())

    def _must_load(self, stage: str) -> bool:
        return stage in self._paths and stage not in self._loaded

    def score(self, messages: Sequence[Message], text: str, *, ended: bool) -> Future[Scored]:
        """Score an answer (see `lm/serving/asks.py::Answerer`)."""
        if not self.has_scores:
            raise InputError("this run has no reward model")
        scoring = partial(self._scores.of, messages, text, ended=ended)
        return self.call(scoring, loads=lambda: not self._scores.is_loaded)

    def close(self) -> None:
        """End the thread after the current token."""
        self._jobs.put(None)
        self._thread.join()

    def load(self, stage: str) -> Loaded:
        """Return a stage, loaded at its first use; for the engine's thread only."""
        if stage not in self._paths:
            raise InputError(f"stage {stage!r}: this run has {', '.join(self.stages)}")
        if stage not in self._loaded:
            self._loaded[stage] = Loaded.of(self.config, self._paths[stage], is_first=not self._loaded)
        return self._loaded[stage]

    def _work(self) -> None:
        with torch.no_grad():
            while self._take_jobs():
                for stage in list(self._batches | self._waiting):
                    self._advance(stage)
                self._num_steps += 1
                if self._loads and (not self._is_sampling() or self._num_steps >= TOKENS_BETWEEN_LOADS):
                    self._load_next()

    def _load_next(self) -> None:
        """Run the next job that loads a model, and all others that wait for the same one."""
        self._loads.popleft()[1]()
        self._num_steps = 0
        ready = [job for loads, job in self._loads if not loads()]
        self._loads = deque((loads, job) for loads, job in self._loads if loads())
        for job in ready:
            job()

    def _is_sampling(self) -> bool:
        return any(self._batches.values()) or any(self._waiting.values())

    def _take_jobs(self) -> bool:
        """Run the jobs that wait, or wait for one if there is nothing to do; return False at the end."""
        while True:
            try:
                job = self._jobs.get(block=not self._is_sampling() and not self._loads)
            except Empty:
                return True
            if job is None:
                return False
            job()

    def _admit(self, ask: Ask, deliver: Deliver, cancelled: list[bool]) -> None:
        if cancelled:  # while a model was loaded
            return
        try:
            rows = self._rows(ask, deliver, cancelled)
        except Exception as error:
            deliver(_told(error))
            return
        deliver(Started(len(rows[0].prompt)))
        self._waiting[ask.stage] += rows

    def _rows(self, ask: Ask, deliver: Deliver, cancelled: list[bool]) -> list[Row]:
        loaded, tokenizer = self.load(ask.stage), self.encoder.tokenizer
        messages = () if isinstance(ask.prompt, str) else tuple(m for m in ask.prompt if isinstance(m, Message))
        if messages:
            prompt, decode = self.encoder.prompt(Example(messages, "", None, "", "messages")), self.encoder.text
        else:
            text = ask.prompt
            prompt = (
                tokenizer.encode(text) if isinstance(text, str) else [token for token in text if isinstance(token, int)]
            )
            decode = partial(_continuation, self.encoder)
        num_ids = loaded.policy.model.config.vocab_size
        if not prompt or not all(0 <= token < num_ids for token in prompt):
            raise InputError(f"prompt: must have at least one token, and ids from 0 to {num_ids - 1}")
        max_tokens = self._limit(loaded, len(prompt), ask.max_tokens)
        seed = secrets.randbits(62) if ask.seed is None else ask.seed
        temperature = self.temperature if ask.temperature is None else ask.temperature
        return [
            Row(
                ask,
                choice,
                prompt,
                max_tokens,
                temperature,
                generator(seed, "choice", choice),
                Writer(decode, ask.stop),
                self.encoder.ends.ids,
                deliver,
                cancelled,
            )
            for choice in range(ask.num_choices)
        ]

    def _limit(self, loaded: Loaded, num_prompt: int, wanted: int | None) -> int:
        """Return the number of tokens that a response may have."""
        window = window_of(loaded.policy.model.config)
        default = self.config.eval.max_response_tokens
        left = default if window is None else window - num_prompt
        if left < 1 or (wanted is not None and window is not None and wanted > left):
            raise WindowError(
                f"the prompt has {num_prompt} tokens"
                + (f" and max_tokens is {wanted}" if wanted is not None else "")
                + f", but the model reads {window} tokens in all; shorten the prompt or lower max_tokens"
            )
        return min(default, left) if wanted is None else wanted

    def _advance(self, stage: str) -> None:
        """Sample one token of each response of a stage."""
        batches, waiting = self._batches[stage], self._waiting[stage]
        try:
            with self.load(stage).policy.autocast():
                room = MOST_ROWS - sum(len(batch.rows) for batch in batches)
                if waiting and room > 0:
                    self._begin(stage, waiting[:room])
                for batch in batches:
                    batch.step()
        except Exception as error:
            rows = [row for batch in batches for row in batch.rows if not row.is_done] + waiting
            for deliver in {id(row.cancelled): row.deliver for row in rows if not row.cancelled}.values():
                deliver(_told(error))
            batches.clear()
            waiting.clear()
        batches[:] = [batch for batch in batches if batch.rows]

    def _begin(self, stage: str, rows: Sequence[Row]) -> None:
        """Read the prompts of rows that waited, and add them to a batch if the model's cache can be joined."""
        started = [row for row in rows if not row.cancelled]
        if started:
            state = self.load(stage).state([row.prompt for row in started], self.encoder.pad_id)
            new = Batch(state, started, self._vocabulary)
            if not any(batch.join(new) for batch in self._batches[stage]):
                self._batches[stage].append(new)
        del self._waiting[stage][: len(rows)]  # after they have been read: an error is told to them


def _continuation(encoder: Encoder, ids: Sequence[int]) -> str:
    """Decode the continuation of a text: unlike a response, it keeps the white space around it."""
    ends = ids[-1:] if ids and ids[-1] in encoder.ends.ids else []
    return str(encoder.tokenizer.decode(list(ids[: len(ids) - len(ends)]), skip_special_tokens=True))


def _told(error: Exception) -> Exception:
    """Return what the client is told about an error."""
    if isinstance(error, InputError | FailedError):
        return error
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return FailedError(f"out of memory: {first_line(error)}; ask for fewer responses at one time")
    return error
