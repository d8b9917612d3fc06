"""Load configs with overrides."""

import pytest

import tercet


def test_overrides_may_be_strings_or_a_nested_dict() -> None:
    reward = {"reward_model": 1.0, "tercet.lm.preferences.judge:polite_and_to_the_point": 0.5}
    texts = ["a\u2028b", "😀 \x7f", "on", "350"]
    config = tercet.load_lm_config("tiny", {"ppo": {"reward": reward, "lr": 1e-7}, "eval": {"prompts": texts}})
    assert (config.ppo.reward, config.ppo.lr, config.eval.prompts) == (reward, 1e-7, texts)
    assert config.ppo.num_updates == tercet.load_lm_config("tiny").ppo.num_updates  # other keys of the section stay
    assert tercet.load_arm_config("reach", "seed=3").seed == 3
    with pytest.raises(tercet.InputError, match=r"clip_rage = 0.1 \(overrides\): .*did you mean ppo\.clip_range"):
        tercet.load_lm_config("tiny", {"ppo": {"clip_rage": 0.1}})
