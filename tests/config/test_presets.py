"""Every preset that comes with Tercet is valid, says what it needs, and does what its name promises."""

import pytest

from tercet.config.load import PRESETS, load_arm_config, load_lm_config, preset_names

NAMES = preset_names("lm")
ALL = [(domain, name) for domain in ("lm", "arm") for name in preset_names(domain)]


def test_the_presets_exist():
    assert NAMES == ["count", "hacked", "opt-1.3b", "opt-350m", "smollm2", "tiny"]
    assert preset_names("arm") == [
        "any-arm",
        "half-cheetah",
        "lift",
        "lift-eyes",
        "lift-language",
        "mountain-car",
        "openvla",
        "pendulum",
        "place",
        "push",
        "reach",
        "reach-learned",
        "smolvla",
    ]


@pytest.mark.parametrize(("domain", "name"), ALL)
def test_a_preset_is_valid_and_says_what_it_shows_needs_and_takes(domain: str, name: str):
    {"lm": load_lm_config, "arm": load_arm_config}[domain](name, [])
    head = (PRESETS / domain / f"{name}.yaml").read_text(encoding="utf-8").partition("\n\n")[0]
    comment = "\n".join(line for line in head.splitlines() if line.startswith("#"))
    for word in ("Shows:", "Model:", "Needs:"):
        assert word in comment
    assert any(unit in comment for unit in ("minute", "hours"))
    assert "GB" in comment


@pytest.mark.parametrize("name", NAMES)
def test_a_rollout_divides_into_minibatches_and_a_reward_model_has_pairs_to_learn_from(name: str):
    config = load_lm_config(name, [])
    assert config.ppo.batch_size % config.ppo.num_minibatches == 0
    judged = config.judge != "" and config.reward.num_sampled_pairs > 0
    assert judged or config.data.train[0].path == "Dahoas/rm-static" or "reward_model" not in config.ppo.reward


def test_the_classic_recipes():
    small, large = load_lm_config("opt-350m", []), load_lm_config("opt-1.3b", [])
    assert (small.model.path, small.data.order, len(small.data.reward)) == ("facebook/opt-350m", "sequential", 3)
    assert (large.model.path, large.reward.model) == ("facebook/opt-1.3b", "facebook/opt-350m")
    assert (large.data.order, len(large.data.train)) == ("mixed", 4)
    assert small.data.split == large.data.split == [2, 4, 4]


def test_the_preset_that_shows_reward_hacking_watches_judges_that_teach_nothing():
    config = load_lm_config("hacked", [])
    assert config.ppo.kl_coef == 0 and list(config.ppo.reward) == [config.judge]
    assert config.ppo.watch == config.eval.unseen_judges and not config.ppo.stop_on
    assert config.ppo.num_updates >= 4 * config.ppo.eval_every  # the report compares the last three validations
