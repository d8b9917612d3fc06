"""The engine that a config asks for."""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch

from tercet.config.lm import LmConfig
from tercet.lm.engines.paged import PagedEngine
from tercet.lm.engines.vllm import vllm_engine
from tercet.lm.models.roles import Policy
from tercet.lm.sampling.engine import Engine
from tercet.lm.sampling.generate import SampledTokens
from tercet.lm.sampling.sampling_check import check
from tercet.lm.text.encoder import Encoder
from tercet.runs.progress import say
from tercet.runs.ranks import follows

FOLDER = ".engine"  # in the run folder; a name with a dot belongs to no step


@contextmanager
def engine_of(config: LmConfig, policy: Policy, encoder: Encoder, run: Path) -> Iterator[Engine | None]:
    """Make the engine of ppo.sampler for a policy that has not been trained yet, and end it on exit; None for `own`.

    InputError if there is no such engine here.
    """
    if config.ppo.sampler == "own":
        yield None
        return
    say(
        f"ppo: {config.ppo.sampler} samples the responses; a run with the same seed, or one that is continued, may get "
        "others. Their log-probabilities are computed again by the trainer"
    )
    with _made(config, policy, encoder, run) as engine:
        yield engine


@contextmanager
def engine_of_frozen(
    config: LmConfig, policy: Policy, encoder: Encoder, run: Path, use: Literal["pairs", "eval"]
) -> Iterator[Engine | None]:
    """Make the engine for a frozen policy, and end it on exit; None if ppo.engine_for does not name this use."""
    if use not in config.ppo.engine_for:
        yield None
        return
    say(f"{use}: {config.ppo.sampler} samples the responses; the same seed may give others")
    with _made(config, policy, encoder, run) as engine:
        yield _Checked(engine, policy)


@contextmanager
def _made(config: LmConfig, policy: Policy, encoder: Encoder, run: Path) -> Iterator[Engine]:
    if config.ppo.sampler == "transformers" or follows():  # rank 0 alone asks the server
        yield PagedEngine(policy)
        return
    with vllm_engine(config, policy, encoder, run / FOLDER) as engine:
        yield engine


@dataclass
class _Checked:
    """An engine whose first responses are compared with the policy: PPO does so in every rollout, others do not."""

    engine: Engine
    policy: Policy
    _is_checked: bool = field(default=False, init=False)

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        end_ids: Collection[int],
        max_tokens: int,
        temperature: float,
        generator: torch.Generator,
    ) -> SampledTokens:
        """Sample with the engine. FailedError if it samples from another policy."""
        drawn = self.engine.generate(
            prompts, end_ids=end_ids, max_tokens=max_tokens, temperature=temperature, generator=generator
        )
        if not self._is_checked:
            parts, name = (drawn.ids, drawn.logprobs, drawn.mask), type(self.engine).__name__
            with torch.no_grad():
                check(self.policy.model, prompts, *parts, temperature=temperature, sampler=name)
            self._is_checked = True
        return drawn
