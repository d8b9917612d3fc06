"""The engine that a config asks for."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tercet.config.lm import LmConfig
from tercet.lm.engines.paged import PagedEngine
from tercet.lm.engines.vllm import vllm_engine
from tercet.lm.models.roles import Policy
from tercet.lm.sampling.engine import Engine
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
    if config.ppo.sampler == "transformers" or follows():  # rank 0 alone asks the server
        yield PagedEngine(policy)
        return
    with vllm_engine(config, policy, encoder, run / FOLDER) as engine:
        yield engine
