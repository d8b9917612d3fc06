"""A server of vLLM's API over real HTTP, in this process."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.lm.engines.stand_in import StandIn
from tests.web.conftest import answering

from tercet.config.lm import LmConfig
from tercet.lm.engines.client import Client
from tercet.lm.engines.vllm import VllmEngine
from tercet.lm.engines.weights import save_whole
from tercet.lm.models.adapters import DTYPES
from tercet.lm.models.roles import Policy, load_policy

Serve = Callable[..., tuple[VllmEngine, StandIn]]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """An engine for a policy and the stand-in that serves its base model: `serve(config, policy, max_model_len=9)`."""
    with ExitStack() as ends:

        def start(config: LmConfig, policy: Policy, **settings: object) -> tuple[VllmEngine, StandIn]:
            base = tmp_path / "base"
            save_whole(load_policy(config, learns=True), base)
            dtype = DTYPES[config.precision]
            stand_in = StandIn(base, dtype, **settings)  # type: ignore[arg-type]  # settings of the test
            port = ends.enter_context(answering(stand_in.app()))
            files = tmp_path / "files"
            files.mkdir()
            return VllmEngine(Client(f"http://127.0.0.1:{port}"), policy, "base", files), stand_in

        yield start
