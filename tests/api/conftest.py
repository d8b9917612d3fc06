"""A small language run with its first step done."""

import pytest

import tercet

SMALL = {"sft": {"max_steps": 3, "num_eval": 8, "samples_every": 3}, "data.max_response_tokens": 8}


@pytest.fixture(scope="session")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> tercet.Run:
    """Return a language run with only its first step done."""
    config = tercet.load_lm_config("tiny", SMALL)
    return tercet.run(config, tmp_path_factory.mktemp("tuned") / "run", step="sft", quiet=True)
