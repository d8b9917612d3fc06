"""What a run asks of its models before anything is trained."""

from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import AutoConfig

from tercet.config.lm import LmConfig
from tercet.config.load import load_lm_config
from tercet.errors import InputError
from tercet.lm import eval as evaluation
from tercet.lm.checks import check
from tercet.lm.models.roles import load_policy, load_score_model
from tercet.lm.models.weights import load_causal
from tercet.lm.text.encoder import Encoder
from tercet.lm.text.tokenizers import byte_tokenizer

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
    with pytest.raises(InputError, match=r"reward\.model: deberta-v2 is not a causal language model"):
        checked(f"reward.model={tmp_path / 'deberta-v2'}")


def test_a_ready_policy_is_tried_before_the_reward_model_is_trained(
    small: list[str], make_config: MakeConfig, tmp_path: Path
) -> None:
    shape = {"model_type": "rwkv", "vocab_size": 260, "hidden_size": 16, "num_hidden_layers": 2, "context_length": 128}
    load_causal(make_config(model={"architecture": shape}).model, seed=0).save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"ppo\.policy: RwkvForCausalLM takes no cache"):
        check(load_lm_config("tiny", [*small, f"ppo.policy={tmp_path}"]), ["reward", "ppo", "eval"])


def narrow(small: list[str], window: int) -> LmConfig:
    config = load_lm_config("tiny", small)
    config.model.architecture["max_position_embeddings"] = window
    return config


def test_a_reward_model_of_another_run_need_not_know_this_runs_style(small: list[str], tmp_path: Path) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = "{{ raise_exception('no conversation suits me') }}"
    for window in (128, 32):
        load_score_model(narrow(small, window)).save(tmp_path / str(window), tokenizer)
    settings = [*small, "data.style=hh", "data.max_prompt_tokens=64"]
    check(load_lm_config("tiny", [*settings, f"ppo.reward={{{tmp_path / '128'}: 1.0}}"]), ["ppo"])
    with pytest.raises(InputError, match=r"^ppo\.reward: data\.max_prompt_tokens=64 .* the model reads 32"):
        check(load_lm_config("tiny", [*settings, f"ppo.reward={{{tmp_path / '32'}: 1.0}}"]), ["ppo"])


@pytest.mark.parametrize(("key", "step"), [("ppo.watch", "ppo"), ("eval.unseen_judges", "eval")])
def test_a_reward_model_that_only_measures_is_checked_before_training(
    small: list[str], tmp_path: Path, key: str, step: str
) -> None:
    load_score_model(narrow(small, 32)).save(tmp_path / "narrow", byte_tokenizer())
    settings = [*small, "data.max_prompt_tokens=64"]
    with pytest.raises(InputError, match=rf"^{key}: data\.max_prompt_tokens=64 .* the model reads 32"):
        check(load_lm_config("tiny", [*settings, f"{key}=[{tmp_path / 'narrow'}]"]), [step])
    with pytest.raises(InputError, match=rf"^{key}: .*no_such_folder"):
        check(load_lm_config("tiny", [*settings, f"{key}=[{tmp_path / 'no_such_folder'}]"]), [step])


def test_texts_to_measure_fit_every_policy_that_is_measured(small: list[str], tmp_path: Path) -> None:
    load_policy(narrow(small, 64)).save(tmp_path, byte_tokenizer(), [2])
    settings = [*small, "eval.prompts=['How are you, who have so much to say and so little time?']"]
    config = load_lm_config("tiny", [*settings, "eval.max_response_tokens=8"])
    evaluation.check(config, Encoder.of(config))
    config = load_lm_config("tiny", [*settings, "eval.max_response_tokens=8", f"ppo.policy={tmp_path}"])
    with pytest.raises(InputError, match=r"needs \d+ tokens, but the model reads 64"):
        evaluation.check(config, Encoder.of(config))


COLUMN_REWARDS = """
def right(prompts, completions, answer, **columns):
    return [float(text == wanted) for text, wanted in zip(completions, answer)]
"""


@pytest.mark.parametrize(
    ("settings", "steps"),
    [
        (["ppo.reward={needy:right: 1.0}"], ["ppo"]),
        (["ppo.watch=['needy:right']"], ["ppo"]),
        (["eval.unseen_judges=['needy:right']"], ["eval"]),
        (["judge=needy:right"], ["eval"]),
        (["judge=needy:right", "sft.best_fraction=0.5"], ["sft"]),
        (["judge=needy:right", "reward.num_rounds=1"], ["reward"]),
    ],
)
def test_a_column_that_a_function_takes_and_the_data_lacks_is_refused_before_training(
    settings: list[str], steps: list[str], small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "needy.py").write_text(COLUMN_REWARDS)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(
        InputError,
        match=r"^needy:right: takes the column 'answer', .* no row of the data has: toy .*toy\.jsonl.*answer: YOUR",
    ):
        check(load_lm_config("tiny", [*small, *settings]), steps)
    check(load_lm_config("tiny", [*small, *settings, "data.columns={answer: chosen}"]), steps)
