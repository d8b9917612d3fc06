"""What a run asks of its models before anything is trained."""

from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import AutoConfig

from tercet.config.lm import LmConfig
from tercet.config.load import load_lm_config
from tercet.errors import InputError
from tercet.lm.checks import check
from tercet.lm.tokenizers import byte_tokenizer
from tercet.lm.weights import load_causal

MakeConfig = Callable[..., LmConfig]


def test_configs_are_asked_before_weights_are_read(small: list[str], tmp_path: Path) -> None:
    for name, settings in {"gemma2": {"num_hidden_layers": 1}, "deberta-v2": {}}.items():
        AutoConfig.for_model(name, **settings).save_pretrained(tmp_path / name)
        byte_tokenizer().save_pretrained(tmp_path / name)

    def checked(*overrides: str) -> None:
        check(load_lm_config("tiny", [*small, *overrides]), ["reward", "ppo"])

    checked()
    with pytest.raises(InputError, match=r"ppo\.policy: gemma2 changes the logits.*final_logit_softcapping=30"):
        checked(f"ppo.policy={tmp_path / 'gemma2'}")
    with pytest.raises(InputError, match=r"reward\.model: deberta-v2 is no causal language model"):
        checked(f"reward.model={tmp_path / 'deberta-v2'}")


def test_a_ready_policy_is_tried_before_the_reward_model_is_trained(
    small: list[str], make_config: MakeConfig, tmp_path: Path
) -> None:
    shape = {"model_type": "rwkv", "vocab_size": 260, "hidden_size": 16, "num_hidden_layers": 2, "context_length": 128}
    load_causal(make_config(model={"architecture": shape}).model, seed=0).save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"ppo\.policy: RwkvForCausalLM takes no cache"):
        check(load_lm_config("tiny", [*small, f"ppo.policy={tmp_path}"]), ["reward", "ppo", "eval"])
