"""Unsupported models are refused before training."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import Result

from tercet.config.lm import LmConfig
from tercet.errors import InputError
from tercet.lm.models import roles
from tercet.lm.models.roles import load_policy
from tercet.lm.sampling import sampling_check
from tercet.lm.sampling.model_check import check_policy

MakeConfig = Callable[..., LmConfig]
RWKV = "{model_type: rwkv, vocab_size: 260, hidden_size: 16, num_hidden_layers: 2, context_length: 128}"


@pytest.mark.parametrize("lora", [{"rank": 0}, {"rank": 2}])
def test_a_supported_model_passes(architecture: str, lora: dict[str, Any], make_config: MakeConfig) -> None:
    policy = load_policy(make_config(architecture, lora=lora), learns=True).train()
    before = torch.get_rng_state()
    check_policy(policy)
    assert policy.training and torch.equal(before, torch.get_rng_state())


def test_a_training_forward_that_depends_on_padding_is_refused(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = load_policy(make_config("opt"))
    monkeypatch.setattr(sampling_check, "_checked", set())
    whole = roles._hidden
    monkeypatch.setattr(roles, "_hidden", lambda *args, **kwargs: whole(*args, **kwargs).flip(0))
    with pytest.raises(InputError, match="computes other numbers in a padded batch"):
        check_policy(policy)


def test_an_architecture_without_a_cache_is_refused_before_sft(
    tiny: Callable[..., Result], small: list[str], tmp_path: Path
) -> None:
    result = tiny("sft", tmp_path / "run", *small, f"model.architecture={RWKV}")
    assert result.exit_code == 2 and "RwkvForCausalLM takes no cache" in result.output
    assert not (tmp_path / "run" / "sft" / "model").exists()
